// Detects on a picture with a model that `retinanet-fast export --format aoti` has written; there is no Python in it.
//
//   detect OPS_LIBRARY MODEL.pt2 PICTURE.ppm [SCORE]
//
// OPS_LIBRARY is the path that `python -c "import retinanet_fast; print(retinanet_fast.ops_library())"` prints. The
// picture is a binary PPM (`magick photo.jpg photo.ppm`). Prints a line for each detection: label, score, x1 y1 x2 y2.
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

// The picture as the model takes it: float [1, 3, H, W], RGB in 0 to 1.
at::Tensor read_ppm(const char* path) {
  std::ifstream file(path, std::ios::binary);
  std::string magic;
  int64_t width = 0, height = 0, most = 0;
  if (!(file >> magic >> width >> height >> most) || magic != "P6" || most != 255 || width < 1 || height < 1) {
    throw std::runtime_error(std::string(path) + ": expected a binary PPM of 8 bits (P6, without comments)");
  }
  file.get();  // the one blank before the pixels
  at::Tensor pixels = at::empty({height, width, 3}, at::kByte);
  if (!file.read(static_cast<char*>(pixels.mutable_data_ptr()), pixels.numel())) {
    throw std::runtime_error(std::string(path) + ": ends before its last pixel");
  }
  return pixels.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat).div(255).contiguous();
}

int main(int argc, char** argv) try {
  if (argc < 4) throw std::runtime_error("usage: detect OPS_LIBRARY MODEL.pt2 PICTURE.ppm [SCORE]");
  const double least = argc > 4 ? std::atof(argv[4]) : 0.5;
  // Loading the library registers the ops, which the model calls by name.
  if (!dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL)) throw std::runtime_error(dlerror());
  const c10::InferenceMode no_gradients;
  torch::inductor::AOTIModelPackageLoader model(argv[2]);

  const std::vector<at::Tensor> outputs = model.run({read_ppm(argv[3])});
  const at::Tensor boxes = outputs.at(0).cpu();   // [1, D, 4], pixels of the picture
  const at::Tensor scores = outputs.at(1).cpu();  // [1, D], descending
  const at::Tensor labels = outputs.at(2).cpu();  // [1, D]
  const int64_t count = outputs.at(3)[0].item<int64_t>();
  for (int64_t i = 0; i < count && scores[0][i].item<double>() >= least; ++i) {
    const at::Tensor box = boxes[0][i];
    std::printf("%d %.4f %.2f %.2f %.2f %.2f\n", int(labels[0][i].item<int64_t>()), scores[0][i].item<double>(),
                box[0].item<double>(), box[1].item<double>(), box[2].item<double>(), box[3].item<double>());
  }
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "detect: %s\n", error.what());
  return 1;
}
