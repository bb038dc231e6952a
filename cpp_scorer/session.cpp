#include "session.h"

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>

#include "errors.h"

namespace {

// The graph's names; export.py writes the same.
constexpr std::array<const char*, 6> kInputs{"input_ids",  "position_ids", "segment_ids",
                                             "pred_index", "target_ids",   "cand_index"};
constexpr std::array<const char*, 1> kOutputs{"logprobs"};
constexpr size_t kLongestReason = 300;  // characters of an onnxruntime message, which can hold a whole graph

/// An onnxruntime message as one line.
std::string reason(const Ort::Exception& error) {
  std::string text = error.what();
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text.size() <= kLongestReason ? text : text.substr(0, kLongestReason) + "...";
}

void add_cuda(Ort::SessionOptions& options) {
  const std::vector<std::string> providers = Ort::GetAvailableProviders();
  if (std::find(providers.begin(), providers.end(), "CUDAExecutionProvider") == providers.end()) {
    throw FatalError("device cuda: this onnxruntime is built for the CPU alone; take one with CUDA, or device cpu");
  }
  try {
    const OrtApi& api = Ort::GetApi();
    OrtCUDAProviderOptionsV2* cuda = nullptr;
    Ort::ThrowOnError(api.CreateCUDAProviderOptions(&cuda));
    const std::unique_ptr<OrtCUDAProviderOptionsV2, void (*)(OrtCUDAProviderOptionsV2*)> owner(
        cuda, api.ReleaseCUDAProviderOptions);
    options.AppendExecutionProvider_CUDA_V2(*cuda);
  } catch (const Ort::Exception& error) {
    throw FatalError("device cuda: onnxruntime's CUDA provider cannot be loaded (" + reason(error) + ")");
  }
}

Ort::SessionOptions session_options(int threads) {
  Ort::SessionOptions options;
  options.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
  options.SetIntraOpNumThreads(threads);
  // Every batch has its own shape: patterns kept for each would only grow.
  options.DisableMemPattern();
  // Threads may spin during a run, but not while the input stalls.
  options.AddConfigEntry("session.force_spinning_stop", "1");
  return options;
}

}  // namespace

struct Session::Runtime {
  Ort::Env env{ORT_LOGGING_LEVEL_FATAL, "score"};  // errors come as exceptions, and leave as one line
  Ort::Session session{nullptr};
};

Session::Session(const std::string& model_path, int threads, Device device) {
  try {
    runtime_ = std::make_unique<Runtime>();
    Ort::SessionOptions options = session_options(threads);
    if (device == Device::kCuda) add_cuda(options);
    runtime_->session = Ort::Session(runtime_->env, model_path.c_str(), options);
    const auto output = runtime_->session.GetOutputNameAllocated(0, Ort::AllocatorWithDefaultOptions());
    if (std::string(output.get()) != kOutputs[0]) {
      throw FatalError(model_path + ": its graph gives no " + kOutputs[0] + "; export it again");
    }
  } catch (const Ort::Exception& error) {
    throw FatalError(model_path + ": cannot be loaded (" + reason(error) + ")");
  }
}

Session::~Session() = default;

Logprobs Session::run(const PackedBatch& batch) {
  const std::array<const std::vector<int64_t>*, 6> columns{&batch.input_ids,  &batch.position_ids, &batch.segment_ids,
                                                           &batch.pred_index, &batch.target_ids,   &batch.cand_index};
  const std::array<int64_t, 2> row_shape{batch.num_rows, batch.length}, scored_shape{batch.num_rows, batch.num_scored};
  try {
    const Ort::MemoryInfo memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<Ort::Value> inputs;
    for (size_t i = 0; i < columns.size(); ++i) {
      const auto& shape = i < 3 ? row_shape : scored_shape;
      // onnxruntime takes inputs by a mutable pointer, but does not write to them.
      inputs.push_back(Ort::Value::CreateTensor<int64_t>(memory, const_cast<int64_t*>(columns[i]->data()),
                                                         columns[i]->size(), shape.data(), shape.size()));
    }
    const std::vector<Ort::Value> outputs = runtime_->session.Run(
        Ort::RunOptions{nullptr}, kInputs.data(), inputs.data(), inputs.size(), kOutputs.data(), kOutputs.size());
    const std::vector<int64_t> shape = outputs[0].GetTensorTypeAndShapeInfo().GetShape();
    const int64_t candidates = 1 + *std::max_element(batch.cand_index.begin(), batch.cand_index.end());
    if (shape != std::vector<int64_t>{batch.num_rows, candidates}) {
      throw FatalError("the model's logprobs are not [questions, candidates]; export it again");
    }
    const float* values = outputs[0].GetTensorData<float>();
    return {shape[1], {values, values + shape[0] * shape[1]}};
  } catch (const Ort::Exception& error) {
    throw RowError("the model cannot be run (" + reason(error) + ")");
  }
}

std::string Session::runtime_version() { return OrtGetApiBase()->GetVersionString(); }
