#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

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
  /// Throws FatalError where the model cannot be loaded or onnxruntime has no provider for the device.
  Session(const std::string& model_path, int threads, Device device);
  ~Session();

  /// Throws RowError where the run fails, say for want of memory.
  Logprobs run(const PackedBatch& batch);

  /// The version of the onnxruntime library in use.
  static std::string runtime_version();

 private:
  struct Runtime;
  std::unique_ptr<Runtime> runtime_;
};
