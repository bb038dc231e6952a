// What a model file says about itself, and every mixture that is refused. The files are made here, byte by byte.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "check.h"
#include "errors.h"
#include "model_info.h"
#include "onnx_metadata.h"
#include "sha256.h"

namespace fs = std::filesystem;

namespace {

using Metadata = std::map<std::string, std::string>;

std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 128; value >>= 7) bytes += static_cast<char>(value | 128);
  return bytes + static_cast<char>(value);
}

std::string field(uint64_t number, const std::string& payload) {
  return varint(number << 3 | 2) + varint(payload.size()) + payload;
}

/// A ModelProto: ir_version, a graph of bytes that are never looked at, metadata_props.
std::string onnx(const Metadata& metadata) {
  std::string bytes = varint(1 << 3) + varint(10) + field(7, std::string(1000, '\xff'));
  for (const auto& [key, value] : metadata) bytes += field(14, field(1, key) + field(2, value));
  return bytes;
}

void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

void metadata_is_read_and_truncation_seen(const fs::path& folder) {
  const Metadata metadata{{"template", "{context}\n\u00e9"}, {"empty", ""}, {"long", std::string(5000, 'x')}};
  const std::string bytes = onnx(metadata);
  const fs::path path = folder / "plain.onnx";
  write_file(path, bytes);
  CHECK(read_onnx_metadata(path) == metadata);
  size_t complete = 0;  // prefixes that end between two fields are models too, of fewer metadata
  // Byte by byte but inside the graph and the long value.
  for (size_t size = 0; size < bytes.size(); size += size < 20 || (size >= 990 && size < 1100) ? 1 : 97) {
    write_file(path, bytes.substr(0, size));
    try {
      CHECK(read_onnx_metadata(path).size() < metadata.size());
      ++complete;
    } catch (const FatalError& error) {
      CHECK(std::string(error.what()).find("truncated, or not an ONNX model") != std::string::npos);
    }
  }
  CHECK(complete <= metadata.size());
  write_file(path, "no model at all\n");
  CHECK_THROWS(read_onnx_metadata(path), FatalError, "not an ONNX model");
  CHECK_THROWS(read_onnx_metadata(folder), FatalError, "cannot be read");
  CHECK_THROWS(read_onnx_metadata(folder / "missing.onnx"), FatalError, "missing.onnx: cannot be read");
}

Metadata complete_metadata(const fs::path& folder) {
  const std::string hash(64, 'a');
  return {{"format_version", "1"}, {"template", "{context}"}, {"max_length", "512"}, {"end_token", "<|endoftext|>"},
          {"end_token_id", "151643"}, {"base_model", "base"}, {"training", "{}"}, {"quantization", "none"},
          {"data_sha256", ""}, {"tokenizer_sha256", sha256_of_file(folder / "tokenizer.json")},
          {"tokenizer_file", "tokenizer.json"}, {"weights_sha256", hash}, {"data_file", "m." + hash.substr(0, 16) + ".data"}};
}

void a_mixture_is_refused(const fs::path& folder) {
  write_file(folder / "tokenizer.json", "{}");
  const Metadata complete = complete_metadata(folder);
  write_file(folder / complete.at("data_file"), "weights");
  const fs::path path = folder / "m.onnx";
  const auto load = [&](const std::string& key, const std::string& value) {
    Metadata metadata = complete;
    metadata[key] = value;
    write_file(path, onnx(metadata));
    return load_model_info(path);
  };
  const ModelInfo info = load("template", "{context} Holding:");
  CHECK_EQUAL(info.prompt.template_text, "{context} Holding:");
  CHECK_EQUAL(info.prompt.max_length, 512);
  CHECK_EQUAL(info.prompt.end_token_id, 151643);
  CHECK_EQUAL(load("end_token_id", "-1").prompt.end_token_id, -1);

  for (const auto& [key, value] : complete) {
    Metadata without = complete;
    without.erase(key);
    write_file(path, onnx(without));
    CHECK_THROWS(load_model_info(path), FatalError, "metadata '" + key + "' is missing");
  }
  write_file(path, onnx({}));
  CHECK_THROWS(load_model_info(path), FatalError, "has no metadata");
  CHECK_THROWS(load("format_version", "2"), FatalError, "format version 2, this scorer reads 1");
  CHECK_THROWS(load("max_length", "many"), FatalError, "'max_length' is not an integer");
  CHECK_THROWS(load("max_length", "0"), FatalError, "'max_length' is below 1");
  CHECK_THROWS(load("end_token_id", ""), FatalError, "'end_token_id' is not an integer");
  CHECK_THROWS(load("tokenizer_sha256", std::string(64, '0')), FatalError, "is not the tokenizer it was exported with");
  CHECK_THROWS(load("tokenizer_file", "other.json"), FatalError, "other.json: cannot be read");
  CHECK_THROWS(load("weights_sha256", std::string(64, 'b')), FatalError, "not those it was exported with");
  CHECK_THROWS(load("data_file", "other." + std::string(16, 'a') + ".data"), FatalError, "are missing");

  CHECK_THROWS(check_same_contract(info, load("max_length", "256")), FatalError, "its template is not");
  CHECK_THROWS(check_same_contract(load("max_length", "512"), load("max_length", "256")), FatalError, "its max length is not");
  CHECK_THROWS(check_same_contract(load("max_length", "512"), load("end_token_id", "-1")), FatalError, "its end token is not");
}

}  // namespace

int main() {
  const std::string pattern = (fs::temp_directory_path() / "modelXXXXXX").string();
  std::vector<char> name(pattern.c_str(), pattern.c_str() + pattern.size() + 1);
  const fs::path folder = mkdtemp(name.data());
  metadata_is_read_and_truncation_seen(folder);
  a_mixture_is_refused(folder);
  fs::remove_all(folder);
}
