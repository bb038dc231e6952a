#include "session.h"

// The interface is not asked for before the library's version is known: an older one would print that it has none.
#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>
#undef ORT_API_MANUAL_INIT

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <algorithm>
#include <array>
#include <cstdlib>
#include <mutex>

#include "errors.h"
#include "one_line.h"
#include "placement.h"

namespace {

// The graph's names; export.py writes the same. The first three inputs are int64 [B, L], the others int64 [B, N], the
// output fp32 [B, K].
constexpr std::array<const char*, 6> kInputs{"input_ids",  "position_ids", "segment_ids",
                                             "pred_index", "target_ids",   "cand_index"};
constexpr std::array<const char*, 1> kOutputs{"logprobs"};
constexpr size_t kLongestReason = 300;  // characters of an onnxruntime message, which can hold a whole graph
// 1.x: the first that runs the graph (dependencies.cmake), and the one whose headers this was built with.
constexpr int kOldestRuntime = std::max(OLDEST_ONNXRUNTIME, ORT_API_VERSION);
// Padded tokens. After a larger run its memory is given back, which costs the next one the taking of it.
constexpr int64_t kLargeRun = 2048;

/// An onnxruntime message as one line.
std::string reason(const Ort::Exception& error) {
  const std::string text = one_line(error.what());
  return text.size() <= kLongestReason ? text : text.substr(0, kLongestReason) + "...";
}

/// Makes onnxruntime's interface ready.
void find_runtime() {
  const std::string version = OrtGetApiBase()->GetVersionString();
  const bool known = version.rfind("1.", 0) == 0 && std::atoi(version.c_str() + 2) >= kOldestRuntime;
  const OrtApi* api = known ? OrtGetApiBase()->GetApi(ORT_API_VERSION) : nullptr;
  if (!api) {
    throw FatalError("onnxruntime " + one_line(version) + " cannot run this program's models; put version 1." +
                     std::to_string(kOldestRuntime) + " or a later 1.x beside it, or in the loader's path");
  }
  Ort::InitApi(api);
}

void start_runtime() {
  static std::once_flag found;  // what it sets is global
  std::call_once(found, find_runtime);
}

void ORT_API_CALL see_message(void* placement, OrtLoggingLevel, const char*, const char*, const char*,
                              const char* message) {
  static_cast<Placement*>(placement)->see(message);
}

void add_cuda(Ort::SessionOptions& options, Placement& placement) {
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
    // TF32 keeps 10 bits of a product's factors: log-probs would not be those of fp32.
    const std::array<const char*, 1> keys{"use_tf32"}, values{"0"};
    Ort::ThrowOnError(api.UpdateCUDAProviderOptions(cuda, keys.data(), values.data(), keys.size()));
    options.AppendExecutionProvider_CUDA_V2(*cuda);
    Ort::ThrowOnError(api.SetUserLoggingFunction(options, see_message, &placement));
    options.SetLogSeverityLevel(ORT_LOGGING_LEVEL_VERBOSE);
  } catch (const Ort::Exception& error) {
    throw FatalError("device cuda: onnxruntime's CUDA provider cannot be loaded (" + reason(error) + ")");
  }
}

/// Whether onnxruntime's products of unsigned by signed 8 bits saturate here: on x86 without VNNI. It has exact ones too,
/// which take twice the time where there is VNNI.
bool products_saturate() {
#if defined(__x86_64__)
  constexpr unsigned kAvx512Vnni = 1 << 11, kAvxVnni = 1 << 4;  // of leaf 7: subleaf 0 in ECX, subleaf 1 in EAX
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool has_512 = __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ecx & kAvx512Vnni);
  return !has_512 && !(__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & kAvxVnni));
#else
  return false;
#endif
}

Ort::SessionOptions session_options(int threads) {
  Ort::SessionOptions options;
  options.SetGraphOptimizationLevel(GraphOptimizationLevel::ORT_ENABLE_ALL);
  options.SetIntraOpNumThreads(threads);
  // Every batch has its own shape: patterns kept for each would only grow.
  options.DisableMemPattern();
  // Threads may spin during a run, but not while the input stalls.
  options.AddConfigEntry("session.force_spinning_stop", "1");
  if (products_saturate()) options.AddConfigEntry("session.x64quantprecision", "1");
  return options;
}

/// Whether a value of the graph is a tensor [*, *] of these elements.
bool is_matrix(const Ort::TypeInfo& type, ONNXTensorElementDataType element) {
  if (type.GetONNXType() != ONNX_TYPE_TENSOR) return false;
  const auto tensor = type.GetTensorTypeAndShapeInfo();
  return tensor.GetElementType() == element && tensor.GetDimensionsCount() == 2;
}

}  // namespace

struct Session::Runtime {
  Ort::Env env{ORT_LOGGING_LEVEL_FATAL, "score"};  // errors come as exceptions, and leave as one line
  Placement placement;
  Ort::Session session{nullptr};
};

Session::Session(const ModelInfo& model, int threads, Device device) {
  start_runtime();
  try {
    runtime_ = std::make_unique<Runtime>();
    Ort::SessionOptions options = session_options(threads);
    if (device == Device::kCuda) add_cuda(options, runtime_->placement);
    runtime_->session = Ort::Session(runtime_->env, model.path.c_str(), options);
    check_graph();
  } catch (const Ort::Exception& error) {
    throw FatalError(model.path + ": cannot be loaded (" + reason(error) + ")");
  }
  const std::string on_cpu = runtime_->placement.products_on_cpu();
  if (!on_cpu.empty()) {
    throw FatalError("device cuda: onnxruntime would run " + on_cpu +
                     " on the processor; take an fp32 export, or device cpu");
  }
  check_unchanged(model, metadata());
}

Session::~Session() = default;

void Session::check_graph() const {
  const Ort::AllocatorWithDefaultOptions allocator;
  const auto fail = [](const std::string& what) {
    throw Ort::Exception("its graph is not the scorer's: " + what + "; export it again", ORT_INVALID_GRAPH);
  };
  const Ort::Session& session = runtime_->session;
  std::map<std::string, bool> inputs, outputs;  // by name: whether the type is right
  for (size_t i = 0; i < session.GetInputCount(); ++i) {
    inputs[session.GetInputNameAllocated(i, allocator).get()] =
        is_matrix(session.GetInputTypeInfo(i), ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64);
  }
  for (size_t i = 0; i < session.GetOutputCount(); ++i) {
    outputs[session.GetOutputNameAllocated(i, allocator).get()] =
        is_matrix(session.GetOutputTypeInfo(i), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT);
  }
  for (const char* name : kInputs) {
    if (!inputs[name]) fail(std::string("input ") + name + " is not int64 of rank 2");
  }
  if (inputs.size() != kInputs.size()) fail("it has other inputs too");
  if (!outputs[kOutputs[0]]) fail("output logprobs is not fp32 of rank 2");
}

std::map<std::string, std::string> Session::metadata() const {
  Ort::AllocatorWithDefaultOptions allocator;
  const Ort::ModelMetadata metadata = runtime_->session.GetModelMetadata();
  std::map<std::string, std::string> entries;
  for (const auto& key : metadata.GetCustomMetadataMapKeysAllocated(allocator)) {
    entries[key.get()] = metadata.LookupCustomMetadataMapAllocated(key.get(), allocator).get();
  }
  return entries;
}

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
    Ort::RunOptions options;
    if (batch.num_rows * batch.length > kLargeRun) {
      options.AddConfigEntry("memory.enable_memory_arena_shrinkage", "cpu:0");
    }
    const std::vector<Ort::Value> outputs = runtime_->session.Run(options, kInputs.data(), inputs.data(), inputs.size(),
                                                                  kOutputs.data(), kOutputs.size());
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
