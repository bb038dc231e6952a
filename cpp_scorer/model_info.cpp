#include "model_info.h"

#include <charconv>
#include <filesystem>
#include <string_view>
#include <system_error>

#include "errors.h"
#include "one_line.h"
#include "onnx_metadata.h"
#include "sha256.h"

namespace {

// Format 1 knows no start token and no bound of endings; lib/export/files.py reads the same.
constexpr const char *kFormatVersion = "2", *kOldFormatVersion = "1";
constexpr size_t kHashPrefix = 16;  // hex digits of the weights' hash in their file's name

class Metadata {
 public:
  explicit Metadata(const std::string& path) : path_(path), onnx_(read_onnx_metadata(path)) {
    if (onnx_.entries.empty()) fail("has no metadata; export it with export.py");
  }

  const std::string& text(const std::string& key) const {
    const auto found = onnx_.entries.find(key);
    if (found == onnx_.entries.end()) fail("metadata '" + key + "' is missing; export the model again");
    return found->second;
  }

  int64_t integer(const std::string& key) const {
    const std::string& value = text(key);
    int64_t number = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), number);
    if (error != std::errc() || end != value.data() + value.size()) {
      fail("metadata '" + key + "' is not an integer; export the model again");
    }
    return number;
  }

  /// The path of the file that `key` names, which lies beside the model: no other file is ever looked at.
  std::string file(const std::string& key) const {
    const std::string& name = text(key);
    if (name.empty() || name == "." || name == ".." || name.find_first_of(std::string_view("/\0", 2)) != name.npos) {
      fail("metadata '" + key + "' is '" + name + "', not the name of a file beside it; export the model again");
    }
    const std::filesystem::path path = std::filesystem::path(path_).parent_path() / name;
    std::error_code error;
    if (!std::filesystem::is_regular_file(path, error)) {
      fail("its files are missing: '" + path.string() + "' is no regular file; keep the files of one export together");
    }
    return path;
  }

  const OnnxMetadata& onnx() const { return onnx_; }

  [[noreturn]] void fail(const std::string& what) const { throw FatalError(one_line(path_ + ": " + what)); }

 private:
  const std::string& path_;
  const OnnxMetadata onnx_;
};

}  // namespace

ModelInfo load_model_info(const std::string& path) {
  const Metadata metadata(path);
  const std::string& version = metadata.text("format_version");
  if (version != kFormatVersion && version != kOldFormatVersion) {
    metadata.fail("format version " + version + ", this scorer reads " + kOldFormatVersion + " and " + kFormatVersion +
                  "; export the model again");
  }
  for (const char* key : {"end_token", "base_model", "training", "data_sha256"}) metadata.text(key);

  ModelInfo info;
  info.path = path;
  info.metadata = metadata.onnx().entries;
  info.quantized = metadata.text("quantization") != "none";
  info.one_at_a_time = info.quantized && version == kOldFormatVersion;
  info.prompt.template_text = metadata.text("template");
  info.prompt.max_length = metadata.integer("max_length");
  info.prompt.end_token_id = metadata.integer("end_token_id");
  if (version == kFormatVersion) {
    info.prompt.max_ending = metadata.integer("max_ending");
    info.prompt.start_token_id = metadata.integer("start_token_id");
    if (info.prompt.max_ending == 0 || info.prompt.max_ending < -1) {
      metadata.fail("metadata 'max_ending' is neither -1 nor 1 or more; export the model again");
    }
  }
  if (info.metadata.count("max_positions") > 0) info.max_positions = metadata.integer("max_positions");
  const auto digest = info.metadata.find("contract");
  if (digest != info.metadata.end()) info.prompt.digest = digest->second;
  if (info.prompt.max_length < 1) metadata.fail("metadata 'max_length' is below 1; export the model again");

  const std::string& data_file = metadata.text("data_file");
  info.weights_sha256 = metadata.text("weights_sha256");
  const std::string prefix = info.weights_sha256.substr(0, kHashPrefix);
  if (info.weights_sha256.size() != 64 || data_file.find(prefix) == data_file.npos) {
    metadata.fail("names the weights '" + data_file + "', which are not those it was exported with");
  }
  for (const std::string& name : metadata.onnx().data_files) {
    if (name != data_file) {
      metadata.fail("its graph reads weights from '" + name + "', its metadata name '" + data_file +
                    "'; export the model again");
    }
  }
  info.weights_path = metadata.file("data_file");
  info.tokenizer_path = metadata.file("tokenizer_file");
  info.tokenizer_sha256 = metadata.text("tokenizer_sha256");
  if (sha256_of_file(info.tokenizer_path) != info.tokenizer_sha256) {
    metadata.fail("'" + info.tokenizer_path + "' is not the tokenizer it was exported with (SHA-256 differs)");
  }
  return info;
}

void check_weights(const ModelInfo& model) {
  if (sha256_of_file(model.weights_path) != model.weights_sha256) {
    throw FatalError(model.path + ": its weights '" + model.weights_path + "' are not those that were exported " +
                     "(SHA-256 differs); copy or export them again");
  }
}

void check_unchanged(const ModelInfo& model, const std::map<std::string, std::string>& loaded) {
  // The tokenizer is replaced before the graph, so the graph's metadata alone could be the old ones beside a new one.
  if (loaded != model.metadata || sha256_of_file(model.tokenizer_path) != model.tokenizer_sha256) {
    throw FatalError(model.path + ": was exported anew while it was being loaded; start again");
  }
}

void check_same_contract(const ModelInfo& model, const ModelInfo& reference) {
  const auto refuse = [&](const char* what) {
    throw FatalError(reference.path + ": its " + what + " is not that of " + model.path +
                     "; a model and its reference must see the same ids");
  };
  if (model.tokenizer_sha256 != reference.tokenizer_sha256) refuse("tokenizer");
  if (model.prompt.template_text != reference.prompt.template_text) refuse("template");
  if (model.prompt.max_length != reference.prompt.max_length) refuse("max length");
  if (model.prompt.end_token_id != reference.prompt.end_token_id) refuse("end token");
  if (model.prompt.max_ending != reference.prompt.max_ending) refuse("bound of endings");
  if (model.prompt.start_token_id != reference.prompt.start_token_id) refuse("start token");
}
