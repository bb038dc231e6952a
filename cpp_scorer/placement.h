#pragma once

#include <map>
#include <string>

/// Which of the graph's products onnxruntime runs on the processor although another device was asked for. Its interface
/// does not say; its log of the highest level does, once a session is made. Shapes are left to the processor on purpose
/// and cost nothing.
class Placement {
 public:
  /// Takes in one message of the log.
  void see(const std::string& message);

  /// "Attention (2), MatMulInteger (15)", "the whole graph"; empty where no product is left to the processor.
  std::string products_on_cpu() const;

 private:
  bool whole_graph_ = false;
  bool on_cpu_ = false;  // the list that is being read is the processor's
  std::map<std::string, int> products_;
};
