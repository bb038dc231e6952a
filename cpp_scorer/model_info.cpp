#include "model_info.h"

#include <charconv>
#include <filesystem>
#include <map>

#include "errors.h"
#include "onnx_metadata.h"
#include "sha256.h"

namespace {

constexpr const char* kFormatVersion = "1";
constexpr size_t kHashPrefix = 16;  // hex digits of the weights' hash in their file's name

class Metadata {
 public:
  explicit Metadata(const std::string& path) : path_(path), values_(read_onnx_metadata(path)) {
    if (values_.empty()) fail("has no metadata; export it with export.py");
  }

  const std::string& text(const std::string& key) const {
    const auto found = values_.find(key);
    if (found == values_.end()) fail("metadata '" + key + "' is missing; export the model again");
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

  [[noreturn]] void fail(const std::string& what) const { throw FatalError(path_ + ": " + what); }

 private:
  const std::string& path_;
  std::map<std::string, std::string> values_;
};

}  // namespace

ModelInfo load_model_info(const std::string& path) {
  const Metadata metadata(path);
  const std::string& version = metadata.text("format_version");
  if (version != kFormatVersion) {
    metadata.fail("format version " + version + ", this scorer reads " + kFormatVersion + "; export the model again");
  }
  for (const char* key : {"end_token", "base_model", "training", "data_sha256"}) metadata.text(key);

  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  ModelInfo info;
  info.path = path;
  info.tokenizer_path = folder / metadata.text("tokenizer_file");
  info.tokenizer_sha256 = metadata.text("tokenizer_sha256");
  info.one_at_a_time = metadata.text("quantization") != "none";
  info.prompt.template_text = metadata.text("template");
  info.prompt.max_length = metadata.integer("max_length");
  info.prompt.end_token_id = metadata.integer("end_token_id");
  if (info.prompt.max_length < 1) metadata.fail("metadata 'max_length' is below 1; export the model again");

  const std::string& data_file = metadata.text("data_file");
  const std::string& weights_hash = metadata.text("weights_sha256");
  if (weights_hash.size() != 64 || data_file.find(weights_hash.substr(0, kHashPrefix)) == data_file.npos) {
    metadata.fail("names the weights '" + data_file + "', which are not those it was exported with");
  }
  const std::string data_path = folder / data_file;
  if (!std::filesystem::is_regular_file(data_path)) {
    metadata.fail("its weights '" + data_path + "' are missing; keep the files of one export together");
  }
  if (sha256_of_file(info.tokenizer_path) != info.tokenizer_sha256) {
    metadata.fail("'" + info.tokenizer_path + "' is not the tokenizer it was exported with (SHA-256 differs)");
  }
  return info;
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
}
