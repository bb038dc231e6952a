#include "placement.h"

#include <initializer_list>

namespace {

bool contains(const std::string& text, const char* part) { return text.find(part) != text.npos; }

}  // namespace

// " All nodes placed on [P]. Number of nodes: N", or for each P " Node(s) placed on [P]. Number of nodes: N" and a line
// "  Type (name)" for each of its nodes (session_state.cc, VerifyEachNodeIsAssignedToAnEp).
void Placement::see(const std::string& message) {
  if (contains(message, " placed on [")) {
    on_cpu_ = contains(message, "[CPUExecutionProvider]");
    whole_graph_ = on_cpu_ && contains(message, "All nodes");
    return;
  }
  const size_t begin = message.find_first_not_of(' '), end = message.find(" (", begin);
  if (!on_cpu_ || begin != 2 || end == message.npos) {
    on_cpu_ = false;
    return;
  }
  const std::string type = message.substr(begin, end - begin);
  for (const char* product : {"MatMul", "Gemm", "Attention"}) {
    if (contains(type, product)) {
      ++products_[type];
      return;
    }
  }
}

std::string Placement::products_on_cpu() const {
  std::string text = whole_graph_ ? "the whole graph" : "";
  for (const auto& [type, count] : products_) {
    text += (text.empty() ? "" : ", ") + type + " (" + std::to_string(count) + ")";
  }
  return text;
}
