// Fuzz target over the reader of ONNX files: whatever a file holds, it has metadata or one clear error, and what is
// opened on its word lies beside it.
//   g++:    fuzz_metadata SECONDS [SEED], random mutations of the files below
//   clang:  -DLIBFUZZER -fsanitize=fuzzer

#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "errors.h"
#include "fuzz_main.h"
#include "model_info.h"
#include "onnx_metadata.h"
#include "sha256.h"
#include "small_onnx.h"

namespace fs = std::filesystem;

namespace {

const std::string kHash(64, 'a'), kDataFile = "m." + kHash.substr(0, 16) + ".data", kTokenizer = "{}";

/// A folder with the files that the seeds name; it is gone at the end.
struct Folder {
  Folder() {
    std::string pattern = fs::temp_directory_path() / "fuzzXXXXXX";
    path = mkdtemp(pattern.data());
    std::ofstream(path / kDataFile) << "weights";
    std::ofstream(path / "tokenizer.json") << kTokenizer;
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

void load(const std::string& bytes) {
  static const Folder folder;
  const fs::path path = folder.path / "m.onnx";
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
  try {
    const ModelInfo info = load_model_info(path);
    for (const fs::path opened : {info.tokenizer_path, info.weights_path}) {
      if (opened.parent_path() != folder.path || !fs::is_regular_file(opened)) __builtin_trap();
    }
  } catch (const FatalError& error) {
    const std::string message = error.what();
    if (std::any_of(message.begin(), message.end(), [](unsigned char byte) { return byte < 0x20; })) __builtin_trap();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  std::istringstream stream(bytes);
  try {
    const OnnxMetadata metadata = read_onnx_metadata(stream, size, "fuzzed");
    size_t total = 0;
    for (const auto& [key, value] : metadata.entries) total += key.size() + value.size();
    for (const std::string& name : metadata.data_files) total += name.size();
    if (total > size) __builtin_trap();
  } catch (const FatalError&) {
    return 0;
  }
  load(bytes);
  return 0;
}

const std::vector<std::string>& fuzz_seeds() {
  Sha256 hash;
  hash.update(kTokenizer);
  static const Metadata metadata{
      {"format_version", "2"}, {"max_ending", "256"}, {"start_token_id", "-1"}, {"template", "{context}"}, {"max_length", "512"}, {"end_token", "<|endoftext|>"},
      {"end_token_id", "151643"}, {"base_model", "base"}, {"training", "{}"}, {"quantization", "none"},
      {"data_sha256", ""}, {"tokenizer_sha256", hash.hex_digest()}, {"tokenizer_file", "tokenizer.json"},
      {"weights_sha256", kHash}, {"data_file", kDataFile}};
  static const std::string attributes = field(5, field(5, tensor_in("a"))) + field(5, field(10, tensor_in("b"))) +
                                        field(5, field(22, field(1, tensor_in("c"))));
  static const std::vector<std::string> seeds{
      onnx(metadata, field(5, tensor_in(kDataFile))), onnx(metadata), onnx({}, field(5, tensor_in("../x"))),
      onnx({}, field(1, attributes + field(5, field(6, field(1, attributes))))),
      onnx({}) + field(25, field(7, attributes)) + varint(5 << 3 | 5) + "four" + varint(6 << 3 | 1) + "eight...",
      field(14, field(1, "k") + field(2, "v")) + varint(~uint64_t{0})};
  return seeds;
}
