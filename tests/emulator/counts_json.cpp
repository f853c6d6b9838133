// What benchmarks/kernel_report asks for.
#include <cstdio>
#include <initializer_list>
#include <string>
#include <utility>

#include "counts_state.h"
#include "state.h"

namespace emulator {
namespace {

using Fields = std::initializer_list<std::pair<const char*, double>>;

std::string json_of(const Fields& fields) {
  std::string text;
  for (const auto& [name, value] : fields) {
    char field[80];
    snprintf(field, sizeof field, "%s\"%s\": %.0f", text.empty() ? "" : ", ", name, value);
    text += field;
  }
  return text;
}

std::string json_of(const Chain& c) {
  return json_of({{"cycles", c.cycles},
                  {"instructions", c.instructions},
                  {"l1", c.l1},
                  {"l2", c.l2},
                  {"dram", c.dram},
                  {"shared", c.shared},
                  {"atomic", c.atomic},
                  {"warp_wide", c.warp_wide},
                  {"barriers", c.barriers},
                  {"waits_for_others", c.waits_for_others}});
}

// Integers up to 2^53 are exact as doubles.
std::string json_of(const Counted& one) {
  const Totals& t = one.totals;
  std::string text = "{\"kernel\": \"" + name_of(one.launch.kernel) + "\", ";
  text += json_of({{"blocks", double(one.launch.grid.count())},
                   {"threads", double(one.launch.block.count())},
                   {"dynamic_shared", double(one.launch.shared_bytes)},
                   {"useful_bytes", double(t.useful_bytes)},
                   {"sectors", double(t.sectors)},
                   {"block_sectors", double(t.block_sectors)},
                   {"unique_sectors", double(t.unique_sectors)},
                   {"streamed_bytes", double(t.streamed_bytes)},
                   {"narrow_bytes", double(t.narrow_bytes)},
                   {"shared_accesses", double(t.shared_accesses)},
                   {"bank_conflicts", double(t.bank_conflicts)},
                   {"atomics", double(t.atomics)},
                   {"longest_queue", double(t.longest_queue)},
                   {"instructions", t.instructions},
                   {"divisions64", t.divisions64},
                   {"idle_blocks", double(t.idle_blocks)},
                   {"chain_cycles", t.chain_cycles},
                   {"issue_cycles", t.issue_cycles}});
  text += ", \"chain\": {" + json_of(one.longest) + "}, \"cycles\": [";
  for (size_t i = 0; i < one.cycles.size(); ++i) {
    text += (i ? "," : "") + std::to_string(int64_t(one.idle[i] ? -1 - one.cycles[i] : one.cycles[i]));
  }
  return text + "]}";
}

}  // namespace
}  // namespace emulator

// The launches counted since the last call, as JSON. "cycles" are of each block: -1 - cycles, if it is idle.
extern "C" __attribute__((visibility("default"))) const char* emulator_counts() {
  using namespace emulator;
  static std::string text;
  text.clear();
  for (const Counted& one : counted) text += (text.empty() ? "[" : ",\n") + json_of(one);
  text += text.empty() ? "[]" : "]";
  counted.clear();
  return text.c_str();
}
