// What is made of onnxruntime's log of where it runs the graph; the lines are those that versions from 1.13 on write.

#include "check.h"
#include "placement.h"

namespace {

std::string products(const std::vector<std::string>& messages) {
  Placement placement;
  for (const std::string& message : messages) placement.see(message);
  return placement.products_on_cpu();
}

}  // namespace

int main() {
  const std::string cpu = " Node(s) placed on [CPUExecutionProvider]. Number of nodes: 3";
  const std::string cuda = " Node(s) placed on [CUDAExecutionProvider]. Number of nodes: 3";
  CHECK_EQUAL(products({}), "");
  CHECK_EQUAL(products({"Node placements", " All nodes placed on [CUDAExecutionProvider]. Number of nodes: 173"}), "");
  CHECK_EQUAL(products({"Node placements", " All nodes placed on [CPUExecutionProvider]. Number of nodes: 173"}),
              "the whole graph");
  CHECK_EQUAL(products({cpu, "  Shape (shape_MatMul)", "  Gather (g)", cuda, "  MatMul (m)", "  Attention (a)"}), "");
  CHECK_EQUAL(products({cuda, "  Mul (m)", cpu, "  MatMulInteger (a)", "  Attention (b)", "  MatMulInteger ()"}),
              "Attention (1), MatMulInteger (2)");
  CHECK_EQUAL(products({cpu, "  Gemm (a)", "Session successfully initialized.", "  MatMul (b)"}), "Gemm (1)");
}
