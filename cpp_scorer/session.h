#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "model_info.h"
#include "packer.h"

enum class Device { kCpu, kCuda };

/// Log-probs [num_rows, num_candidates], row-major: the sums over each candidate's tokens.
struct Logprobs {
  int64_t num_candidates = 0;
  std::vector<float> values;
};

/// The packed scoring graph, ready to run. The only part that knows onnxruntime.
class Session {
 public:
  /// Throws FatalError where onnxruntime is too old or lacks the device, and where the model cannot be loaded, is not
  /// the packed scoring graph, is no longer what `model` says of it, or would not run on the device.
  Session(const ModelInfo& model, int threads, Device device);
  ~Session();

  /// Throws RowError where the run fails, say for want of memory.
  Logprobs run(const PackedBatch& batch);

  /// The version of the onnxruntime library in use.
  static std::string runtime_version();

 private:
  void check_graph() const;
  std::map<std::string, std::string> metadata() const;

  struct Runtime;
  std::unique_ptr<Runtime> runtime_;
};
