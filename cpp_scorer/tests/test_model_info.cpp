// What a model file says about itself, and every mixture that is refused. The files are made here, byte by byte.

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "check.h"
#include "errors.h"
#include "model_info.h"
#include "onnx_metadata.h"
#include "sha256.h"
#include "small_onnx.h"

namespace fs = std::filesystem;

namespace {

void write_file(const fs::path& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

void metadata_is_read_and_truncation_seen(const fs::path& folder) {
  const Metadata metadata{{"template", "{context}\n\u00e9"}, {"empty", ""}, {"long", std::string(5000, 'x')}};
  const std::string bytes = onnx(metadata);
  const fs::path path = folder / "plain.onnx";
  write_file(path, bytes);
  CHECK(read_onnx_metadata(path).entries == metadata);
  size_t complete = 0;  // prefixes that end between two fields are models too, of fewer metadata
  // Byte by byte but inside the graph and the long value.
  for (size_t size = 0; size < bytes.size(); size += size < 20 || (size >= 990 && size < 1100) ? 1 : 97) {
    write_file(path, bytes.substr(0, size));
    try {
      CHECK(read_onnx_metadata(path).entries.size() < metadata.size());
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

OnnxMetadata read_bytes(const std::string& bytes) {
  std::istringstream stream(bytes);
  return read_onnx_metadata(stream, bytes.size(), "made");
}

void data_files_are_found_wherever_a_tensor_stands() {
  const auto files = [](const std::string& graph) { return read_bytes(onnx({}, graph)).data_files; };
  using Names = std::set<std::string>;
  CHECK(files("") == Names{});
  const std::string tensor = tensor_in("a"), initializer = field(5, tensor);
  CHECK(files(initializer + field(5, tensor_in("b"))) == (Names{"a", "b"}));
  CHECK(files(field(15, field(1, tensor) + field(2, tensor_in("b")))) == (Names{"a", "b"}));
  const auto attribute = [](uint64_t number, const std::string& payload) {
    return field(1, field(5, field(number, payload)));
  };
  for (const uint64_t number : {5, 10}) CHECK(files(attribute(number, tensor)) == Names{"a"});
  for (const uint64_t number : {6, 11}) CHECK(files(attribute(number, initializer)) == Names{"a"});
  for (const uint64_t number : {22, 23}) CHECK(files(attribute(number, field(1, tensor))) == Names{"a"});
  CHECK(read_bytes(onnx({}) + field(25, field(7, field(5, field(5, tensor))))).data_files == Names{"a"});
}

void a_hostile_file_ends_in_an_error() {
  std::string nested = field(5, tensor_in("a"));
  for (int i = 0; i < 100; ++i) nested = field(1, field(5, field(6, nested)));
  CHECK_THROWS(read_bytes(onnx({}, nested)), FatalError, "nested deeper than 32 messages");
  std::string many;
  const std::string entry = field(14, field(1, std::string(1 << 20, 'k')));
  for (int i = 0; i < 65; ++i) many += entry;
  CHECK_THROWS(read_bytes(onnx({}) + many), FatalError, "more than 64 MiB of metadata");
}

Metadata complete_metadata(const fs::path& folder) {
  const std::string hash(64, 'a');
  return {{"format_version", "2"}, {"template", "{context}"}, {"max_length", "512"}, {"end_token", "<|endoftext|>"},
          {"max_ending", "256"}, {"start_token_id", "-1"},
          {"end_token_id", "151643"}, {"base_model", "base"}, {"training", "{}"}, {"quantization", "none"},
          {"data_sha256", ""}, {"tokenizer_sha256", sha256_of_file(folder / "tokenizer.json")},
          {"tokenizer_file", "tokenizer.json"}, {"weights_sha256", hash},
          {"data_file", "m." + hash.substr(0, 16) + ".data"}};
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
  CHECK_EQUAL(info.prompt.max_ending, 256);
  CHECK_EQUAL(load("start_token_id", "1").prompt.start_token_id, 1);
  CHECK_EQUAL(load("end_token_id", "-1").prompt.end_token_id, -1);

  for (const auto& [key, value] : complete) {
    Metadata without = complete;
    without.erase(key);
    write_file(path, onnx(without));
    CHECK_THROWS(load_model_info(path), FatalError, "metadata '" + key + "' is missing");
  }
  write_file(path, onnx({}));
  CHECK_THROWS(load_model_info(path), FatalError, "has no metadata");
  CHECK_THROWS(load("format_version", "3"), FatalError, "format version 3, this scorer reads 1 and 2");
  CHECK_THROWS(load("max_ending", "0"), FatalError, "'max_ending' is neither -1 nor 1 or more");
  CHECK_EQUAL(load("format_version", "1").prompt.max_ending, -1);
  CHECK_THROWS(load("max_length", "many"), FatalError, "'max_length' is not an integer");
  CHECK_THROWS(load("max_length", "0"), FatalError, "'max_length' is below 1");
  CHECK_THROWS(load("end_token_id", ""), FatalError, "'end_token_id' is not an integer");
  CHECK_THROWS(load("tokenizer_sha256", std::string(64, '0')), FatalError, "is not the tokenizer it was exported with");
  CHECK_THROWS(load("tokenizer_file", "other.json"), FatalError, "other.json' is no regular file");
  CHECK_THROWS(load("weights_sha256", std::string(64, 'b')), FatalError, "not those it was exported with");
  CHECK_THROWS(load("data_file", "other." + std::string(16, 'a') + ".data"), FatalError, "are missing");

  write_file(path, onnx(complete, field(5, tensor_in(complete.at("data_file")))));
  CHECK_EQUAL(load_model_info(path).weights_sha256, complete.at("weights_sha256"));
  for (const char* name : {"foreign.data", "../m.data", "/dev/zero", "*/_ORT_MEM_ADDR_/*"}) {
    write_file(path, onnx(complete, field(5, tensor_in(name))));
    CHECK_THROWS(load_model_info(path), FatalError, std::string("reads weights from '") + name + "', its metadata");
  }

  CHECK_THROWS(check_same_contract(info, load("max_length", "256")), FatalError, "its template is not");
  CHECK_THROWS(check_same_contract(load("max_length", "512"), load("max_length", "256")), FatalError, "its max length is not");
  CHECK_THROWS(check_same_contract(load("max_length", "512"), load("end_token_id", "-1")), FatalError, "its end token is not");
  CHECK_THROWS(check_same_contract(load("max_length", "512"), load("max_ending", "9")), FatalError, "its bound of endings");
  CHECK_THROWS(check_same_contract(load("max_length", "512"), load("start_token_id", "1")), FatalError, "its start token");
}

/// Names that lead out of the folder, or to what is no file: none is opened, with or without the right hash.
void only_files_beside_the_model_are_looked_at(const fs::path& folder) {
  const Metadata complete = complete_metadata(folder);
  const auto refuses = [&](const std::string& key, const std::string& name, const std::string& what) {
    Metadata metadata = complete;
    metadata[key] = name;
    write_file(folder / "m.onnx", onnx(metadata));
    try {
      load_model_info(folder / "m.onnx");
      CHECK_EQUAL(name, "refused");
    } catch (const FatalError& error) {
      const std::string message = error.what();
      CHECK(message.find(what) != message.npos && message.find_first_of("\n\x1b") == message.npos);
    }
  };
  const std::string hash = complete.at("weights_sha256").substr(0, 16);
  mkfifo((folder / "pipe").c_str(), 0600);
  fs::create_directory(folder / "folder");
  fs::create_symlink("/dev/zero", folder / "zero");
  for (const char* name : {"/etc/passwd", "/dev/stdin", "../tokenizer.json", "folder/tokenizer.json", ".", "..", "",
                           "a/", "\n\x1b[31m/"}) {
    refuses("tokenizer_file", name, "not the name of a file beside it");
    refuses("data_file", name + hash + "/", "not the name of a file beside it");
  }
  refuses("tokenizer_file", std::string("tokenizer.json\0", 15), "not the name of a file beside it");
  for (const char* name : {"pipe", "folder", "zero", "missing"}) refuses("tokenizer_file", name, "is no regular file");
  refuses("tokenizer_file", std::string(5000, 'x'), "is no regular file");
}

void weights_are_checked_by_their_bytes(const fs::path& folder) {
  Metadata metadata = complete_metadata(folder);
  write_file(folder / "weights", "weights");
  metadata["weights_sha256"] = sha256_of_file(folder / "weights");
  metadata["data_file"] = "m." + metadata["weights_sha256"].substr(0, 16) + ".data";
  write_file(folder / "m.onnx", onnx(metadata));
  write_file(folder / metadata["data_file"], "weights");
  check_weights(load_model_info(folder / "m.onnx"));
  for (const char* other : {"weightt", "weight", "weights\n", ""}) {
    write_file(folder / metadata["data_file"], other);
    CHECK_THROWS(check_weights(load_model_info(folder / "m.onnx")), FatalError, "are not those that were exported");
  }
}

void a_new_export_in_between_is_seen(const fs::path& folder) {
  write_file(folder / "m.onnx", onnx(complete_metadata(folder)));
  const ModelInfo info = load_model_info(folder / "m.onnx");
  check_unchanged(info, info.metadata);
  Metadata other = info.metadata;
  other["base_model"] = "another";
  CHECK_THROWS(check_unchanged(info, other), FatalError, "was exported anew");
  CHECK_THROWS(check_unchanged(info, {}), FatalError, "was exported anew");
  write_file(folder / "tokenizer.json", "{ }");
  CHECK_THROWS(check_unchanged(info, info.metadata), FatalError, "was exported anew");
}

}  // namespace

int main() {
  const std::string pattern = (fs::temp_directory_path() / "modelXXXXXX").string();
  std::vector<char> name(pattern.c_str(), pattern.c_str() + pattern.size() + 1);
  const fs::path folder = mkdtemp(name.data());
  metadata_is_read_and_truncation_seen(folder);
  data_files_are_found_wherever_a_tensor_stands();
  a_hostile_file_ends_in_an_error();
  a_mixture_is_refused(folder);
  only_files_beside_the_model_are_looked_at(folder);
  weights_are_checked_by_their_bytes(folder);
  a_new_export_in_between_is_seen(folder);
  fs::remove_all(folder);
}
