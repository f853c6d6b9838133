// Every op's schema, and the Python module `_C`: importing it registers the ops; its functions are a typed,
// documented door to them through the same dispatcher.
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <optional>
#include <string>

#include "build_info.h"
#include "kernels/cpu/kernels.h"
#include "torch/common.h"

namespace py = pybind11;

TORCH_LIBRARY(retinanet_fast, m) {
  m.def("box_iou(Tensor boxes1, Tensor boxes2) -> Tensor");
  m.def("box_iou_backward(Tensor grad_iou, Tensor boxes1, Tensor boxes2) -> (Tensor, Tensor)");
  m.def("encode_boxes(Tensor boxes, Tensor anchors, float[] weights) -> Tensor");
  m.def("encode_boxes_backward(Tensor grad_deltas, Tensor boxes, Tensor anchors, float[] weights) -> (Tensor, Tensor)");
  m.def(
      "decode_boxes(Tensor deltas, Tensor anchors, float[] weights, float max_log_scale, SymInt[] image_size) "
      "-> Tensor");
  m.def(
      "decode_boxes_backward(Tensor grad_boxes, Tensor deltas, Tensor anchors, float[] weights, float max_log_scale, "
      "SymInt[] image_size) -> (Tensor, Tensor)");
  // Anchors [A, 4] with empty lists, or a grid's base anchors [L, K, 4] with its levels' pairs in `strides`,
  // `grid_sizes`.
  m.def(
      "match_anchors(Tensor anchors, SymInt[] strides, SymInt[] grid_sizes, Tensor[] gt_boxes, float high_threshold, "
      "float low_threshold, bool allow_low_quality_matches, bool match_zero_iou) -> Tensor");
  m.def(
      "retinanet_loss(Tensor[] cls_logits, Tensor[] bbox_regression, Tensor anchors, SymInt[] strides, "
      "SymInt[] grid_sizes, Tensor[] gt_boxes, Tensor[] gt_labels, float alpha, float gamma, str box_loss, "
      "float smooth_l1_beta, float[] box_weights, float high_threshold, float low_threshold, "
      "bool allow_low_quality_matches, bool match_zero_iou) -> (Tensor, Tensor)");
  m.def(
      "retinanet_loss_backward(Tensor grad_classification, Tensor grad_bbox, Tensor[] cls_logits, "
      "Tensor[] bbox_regression, Tensor anchors, SymInt[] strides, SymInt[] grid_sizes, Tensor[] gt_boxes, "
      "Tensor[] gt_labels, float alpha, float gamma, str box_loss, float smooth_l1_beta, float[] box_weights, "
      "float high_threshold, float low_threshold, bool allow_low_quality_matches, bool match_zero_iou) "
      "-> (Tensor[], Tensor[])");
  m.def("nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor");
  m.def("batched_nms(Tensor boxes, Tensor scores, Tensor idxs, float iou_threshold) -> Tensor");
  m.def(
      "sigmoid_focal_loss(Tensor inputs, Tensor targets, float alpha=0.25, float gamma=2.0, str reduction=\"none\") "
      "-> Tensor");
  m.def(
      "sigmoid_focal_loss_backward(Tensor grad_output, Tensor inputs, Tensor targets, float alpha, float gamma, "
      "str reduction, bool targets_grad) -> (Tensor, Tensor)");
  m.def(
      "softmax_focal_loss(Tensor inputs, Tensor targets, Tensor? class_weights=None, float alpha=1.0, "
      "float gamma=2.0, str reduction=\"mean\") -> Tensor");
  m.def(
      "softmax_focal_loss_backward(Tensor grad_output, Tensor inputs, Tensor targets, Tensor? class_weights, "
      "float alpha, float gamma, str reduction) -> Tensor");
  m.def(
      "retinanet_detect(Tensor[] cls_logits, Tensor[] bbox_regression, Tensor anchors, int[] strides, "
      "Tensor image_sizes, float score_thresh, Tensor? class_thresh, int topk_candidates, float nms_thresh, "
      "int detections_per_img, float[] box_weights, str soft_nms, float soft_nms_sigma) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
}

namespace retinanet_fast {
namespace {

py::dict build_info() {
  py::dict info;
  info["version"] = RETINANET_FAST_VERSION;
  info["plan"] = RETINANET_FAST_BUILD_PLAN;
  info["torch"] = RETINANET_FAST_TORCH_VERSION;
  info["cuda"] = RETINANET_FAST_CUDA_VERSION;
  info["cuda_architectures"] = RETINANET_FAST_CUDA_ARCHITECTURES;
  info["compiler"] = RETINANET_FAST_COMPILER;
  info["cpu_level"] = cpu_kernels().level;
  return info;
}

}  // namespace
}  // namespace retinanet_fast

PYBIND11_MODULE(_C, m) {
  using namespace retinanet_fast;
  m.doc() = "retinanet_fast's compiled ops. Importing this module registers torch.ops.retinanet_fast.*";
  m.def("build_info", &build_info, "What this extension was built from and for, and the CPU level in use.");
  m.def(
      "box_iou",
      [](const at::Tensor& boxes1, const at::Tensor& boxes2) {
        static const auto op = typed_op<at::Tensor(const at::Tensor&, const at::Tensor&)>("retinanet_fast::box_iou");
        return op.call(boxes1, boxes2);
      },
      py::arg("boxes1"), py::arg("boxes2"), "Pairwise IoU of xyxy boxes, [N, 4] and [M, 4] -> [N, M].");
  m.def(
      "encode_boxes",
      [](const at::Tensor& boxes, const at::Tensor& anchors, const std::vector<double>& weights) {
        static const auto op = typed_op<at::Tensor(const at::Tensor&, const at::Tensor&, at::ArrayRef<double>)>(
            "retinanet_fast::encode_boxes");
        return op.call(boxes, anchors, weights);
      },
      py::arg("boxes"), py::arg("anchors"), py::arg("weights"),
      "The deltas [N, 4] that turn anchors into boxes, both [N, 4] xyxy.");
  m.def(
      "decode_boxes",
      [](const at::Tensor& deltas, const at::Tensor& anchors, const std::vector<double>& weights, double max_log_scale,
         const std::vector<int64_t>& image_size) {
        static const auto op = typed_op<at::Tensor(const at::Tensor&, const at::Tensor&, at::ArrayRef<double>, double,
                                                   c10::SymIntArrayRef)>("retinanet_fast::decode_boxes");
        return op.call(deltas, anchors, weights, max_log_scale, c10::fromIntArrayRefSlow(image_size));
      },
      py::arg("deltas"), py::arg("anchors"), py::arg("weights"), py::arg("max_log_scale"), py::arg("image_size"),
      "The boxes [N, 4] that deltas make of anchors, clipped to image_size (height, width) unless that is empty.");
  m.def(
      "match_anchors",
      [](const at::Tensor& anchors, const std::vector<int64_t>& strides, const std::vector<int64_t>& grid_sizes,
         const std::vector<at::Tensor>& gt_boxes, double high_threshold, double low_threshold,
         bool allow_low_quality_matches, bool match_zero_iou) {
        static const auto op =
            typed_op<at::Tensor(const at::Tensor&, c10::SymIntArrayRef, c10::SymIntArrayRef, at::TensorList, double,
                                double, bool, bool)>("retinanet_fast::match_anchors");
        return op.call(anchors, c10::fromIntArrayRefSlow(strides), c10::fromIntArrayRefSlow(grid_sizes), gt_boxes,
                       high_threshold, low_threshold, allow_low_quality_matches, match_zero_iou);
      },
      py::arg("anchors"), py::arg("strides"), py::arg("grid_sizes"), py::arg("gt_boxes"), py::arg("high_threshold"),
      py::arg("low_threshold"), py::arg("allow_low_quality_matches"), py::arg("match_zero_iou"),
      "Per image and anchor its box, -1 for background, -2 between: [A, 4] and a list of [G, 4] -> [B, A]. The lists "
      "are empty, or anchors are a grid's base anchors [L, K, 4] and they hold its levels' strides and sizes.");
  m.def(
      "retinanet_loss",
      [](const std::vector<at::Tensor>& cls_logits, const std::vector<at::Tensor>& bbox_regression,
         const at::Tensor& anchors, const std::vector<int64_t>& strides, const std::vector<int64_t>& grid_sizes,
         const std::vector<at::Tensor>& gt_boxes, const std::vector<at::Tensor>& gt_labels, double alpha, double gamma,
         const std::string& box_loss, double smooth_l1_beta, const std::vector<double>& box_weights,
         double high_threshold, double low_threshold, bool allow_low_quality_matches, bool match_zero_iou) {
        static const auto op = typed_op<std::tuple<at::Tensor, at::Tensor>(
            at::TensorList, at::TensorList, const at::Tensor&, c10::SymIntArrayRef, c10::SymIntArrayRef, at::TensorList,
            at::TensorList, double, double, c10::string_view, double, at::ArrayRef<double>, double, double, bool,
            bool)>("retinanet_fast::retinanet_loss");
        return op.call(cls_logits, bbox_regression, anchors, c10::fromIntArrayRefSlow(strides),
                       c10::fromIntArrayRefSlow(grid_sizes), gt_boxes, gt_labels, alpha, gamma, box_loss,
                       smooth_l1_beta, box_weights, high_threshold, low_threshold, allow_low_quality_matches,
                       match_zero_iou);
      },
      py::arg("cls_logits"), py::arg("bbox_regression"), py::arg("anchors"), py::arg("strides"), py::arg("grid_sizes"),
      py::arg("gt_boxes"), py::arg("gt_labels"), py::arg("alpha"), py::arg("gamma"), py::arg("box_loss"),
      py::arg("smooth_l1_beta"), py::arg("box_weights"), py::arg("high_threshold"), py::arg("low_threshold"),
      py::arg("allow_low_quality_matches"), py::arg("match_zero_iou"),
      "RetinaNet's classification and box loss from the head's levels [B, K * C, H, W] and [B, K * 4, H, W]; anchors "
      "as match_anchors takes them.");
  m.def(
      "nms",
      [](const at::Tensor& boxes, const at::Tensor& scores, double iou_threshold) {
        static const auto op =
            typed_op<at::Tensor(const at::Tensor&, const at::Tensor&, double)>("retinanet_fast::nms");
        return op.call(boxes, scores, iou_threshold);
      },
      py::arg("boxes"), py::arg("scores"), py::arg("iou_threshold"),
      "Indices (int64) of the boxes that non-maximum suppression keeps, best first.");
  m.def(
      "batched_nms",
      [](const at::Tensor& boxes, const at::Tensor& scores, const at::Tensor& idxs, double iou_threshold) {
        static const auto op = typed_op<at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&, double)>(
            "retinanet_fast::batched_nms");
        return op.call(boxes, scores, idxs, iou_threshold);
      },
      py::arg("boxes"), py::arg("scores"), py::arg("idxs"), py::arg("iou_threshold"),
      "As nms, among the boxes of each class in idxs alone.");
  m.def(
      "sigmoid_focal_loss",
      [](const at::Tensor& inputs, const at::Tensor& targets, double alpha, double gamma,
         const std::string& reduction) {
        static const auto op =
            typed_op<at::Tensor(const at::Tensor&, const at::Tensor&, double, double, c10::string_view)>(
                "retinanet_fast::sigmoid_focal_loss");
        return op.call(inputs, targets, alpha, gamma, reduction);
      },
      py::arg("inputs"), py::arg("targets"), py::arg("alpha") = 0.25, py::arg("gamma") = 2.0,
      py::arg("reduction") = "none", "Sigmoid focal loss of logits [..., K] and targets [..., K] or labels [...].");
  m.def(
      "softmax_focal_loss",
      [](const at::Tensor& inputs, const at::Tensor& targets, const std::optional<at::Tensor>& class_weights,
         double alpha, double gamma, const std::string& reduction) {
        static const auto op =
            typed_op<at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&, double, double,
                                c10::string_view)>("retinanet_fast::softmax_focal_loss");
        return op.call(inputs, targets, class_weights, alpha, gamma, reduction);
      },
      py::arg("inputs"), py::arg("targets"), py::arg("class_weights") = py::none(), py::arg("alpha") = 1.0,
      py::arg("gamma") = 2.0, py::arg("reduction") = "mean",
      "Softmax focal loss of logits [N, C] and labels [N], times alpha and the label's weight of class_weights [C].");
  m.def(
      "retinanet_detect",
      [](const std::vector<at::Tensor>& cls_logits, const std::vector<at::Tensor>& bbox_regression,
         const at::Tensor& anchors, const std::vector<int64_t>& strides, const at::Tensor& image_sizes,
         double score_thresh, const std::optional<at::Tensor>& class_thresh, int64_t topk_candidates, double nms_thresh,
         int64_t detections_per_img, const std::vector<double>& box_weights, const std::string& soft_nms,
         double soft_nms_sigma) {
        static const auto op = typed_op<std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>(
            at::TensorList, at::TensorList, const at::Tensor&, at::IntArrayRef, const at::Tensor&, double,
            const std::optional<at::Tensor>&, int64_t, double, int64_t, at::ArrayRef<double>, c10::string_view,
            double)>("retinanet_fast::retinanet_detect");
        return op.call(cls_logits, bbox_regression, anchors, strides, image_sizes, score_thresh, class_thresh,
                       topk_candidates, nms_thresh, detections_per_img, box_weights, soft_nms, soft_nms_sigma);
      },
      py::arg("cls_logits"), py::arg("bbox_regression"), py::arg("anchors"), py::arg("strides"), py::arg("image_sizes"),
      py::arg("score_thresh"), py::arg("class_thresh"), py::arg("topk_candidates"), py::arg("nms_thresh"),
      py::arg("detections_per_img"), py::arg("box_weights"), py::arg("soft_nms"), py::arg("soft_nms_sigma"),
      "Boxes, scores, labels and counts of each image's detections, from the head's level outputs.");
}
