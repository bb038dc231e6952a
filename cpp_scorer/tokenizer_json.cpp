#include "tokenizer_json.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "errors.h"
#include "pretokenize.h"

using Json = nlohmann::json;

namespace {

constexpr uint64_t kLargestId = INT32_MAX;
constexpr size_t kLongestQuote = 200;

[[noreturn]] void fail(const std::string& field, const std::string& what) {
  throw FatalError("field '" + field + "': " + what);
}

[[noreturn]] void refuse(const std::string& field, const Json& value) {
  std::string quoted = value.dump(-1, ' ', true);
  if (quoted.size() > kLongestQuote) quoted = quoted.substr(0, kLongestQuote) + "...";
  fail(field, quoted + " is not supported: only tokenizers of Qwen2's form are reproduced exactly");
}

/// The field's value, null where it is missing.
const Json& value_of(const Json& object, const char* field) {
  static const Json missing;
  const auto found = object.find(field);
  return found == object.end() ? missing : *found;
}

/// An unknown field may mean anything, so it is refused too.
void check_fields(const Json& object, const std::string& name, std::initializer_list<const char*> known) {
  if (!object.is_object()) fail(name, "is not an object");
  for (const auto& [field, value] : object.items()) {
    if (std::find(known.begin(), known.end(), field) == known.end()) refuse(name + "." + field, value);
  }
}

void check_one_of(const Json& object, const char* field, std::initializer_list<Json> supported) {
  const Json& value = value_of(object, field);
  if (std::find(supported.begin(), supported.end(), value) == supported.end()) refuse(field, value);
}

/// What stands around the model. What concerns offsets and decoding alone changes no ids and may be anything.
void check_pipeline(const Json& file) {
  check_fields(file, "tokenizer", {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                                   "post_processor", "decoder", "model"});
  check_one_of(file, "version", {"1.0"});
  check_one_of(file, "truncation", {nullptr});
  check_one_of(file, "padding", {nullptr});
  check_one_of(file, "normalizer", {Json{{"type", "NFC"}}});

  Json steps = value_of(file, "pre_tokenizer");
  const Json split = {
      {"type", "Split"}, {"pattern", {{"Regex", kQwen2Split}}}, {"behavior", "Isolated"}, {"invert", false}};
  const Json bytes = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  if (steps.contains(Json::json_pointer("/pretokenizers/1/trim_offsets"))) {
    steps["pretokenizers"][1].erase("trim_offsets");
  }
  if (steps != Json{{"type", "Sequence"}, {"pretokenizers", {split, bytes}}}) refuse("pre_tokenizer", steps);

  const Json& post_processor = value_of(file, "post_processor");
  if (!post_processor.is_null() && value_of(post_processor, "type") != "ByteLevel") {
    refuse("post_processor", post_processor);
  }
}

void check_model(const Json& model) {
  check_fields(model, "model", {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                                "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  check_one_of(model, "type", {"BPE"});
  check_one_of(model, "dropout", {nullptr, 0.0});
  check_one_of(model, "unk_token", {nullptr});
  check_one_of(model, "continuing_subword_prefix", {nullptr, ""});
  check_one_of(model, "end_of_word_suffix", {nullptr, ""});
  check_one_of(model, "fuse_unk", {nullptr, false});
  check_one_of(model, "byte_fallback", {nullptr, false});
  check_one_of(model, "ignore_merges", {nullptr, false, true});
}

uint32_t token_id(const Json& value, const std::string& token) {
  if (!value.is_number_unsigned() || value.get<uint64_t>() > kLargestId) fail(token, "has no valid id");
  return value.get<uint32_t>();
}

/// A merge in either form: "a b", or ["a", "b"], which newer versions write.
std::pair<std::string, std::string> read_merge(const Json& merge, size_t row) {
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    const bool is_comment = text.rfind("#version", 0) == 0;  // as in merges.txt; what reads it as a pair gives other ids
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos && !is_comment) {
      return {text.substr(0, space), text.substr(space + 1)};
    }
  } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string()) {
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  }
  fail("merges", "merge " + std::to_string(row) + " is no pair of tokens");
}

TokenizerSpec::AddedToken read_added_token(const Json& token) {
  check_fields(token, "added_tokens", {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  const Json &content = value_of(token, "content"), &normalized = value_of(token, "normalized");
  if (!content.is_string() || !normalized.is_boolean()) fail("added_tokens", "a token lacks its content or 'normalized'");
  for (const char* flag : {"single_word", "lstrip", "rstrip"}) check_one_of(token, flag, {false});
  return {content.get<std::string>(), token_id(value_of(token, "id"), content.get<std::string>()),
          normalized.get<bool>()};
}

Json parse(const std::string& text) {
  try {
    return Json::parse(text);
  } catch (const Json::parse_error& error) {
    throw FatalError("broken JSON or not UTF-8, at byte " + std::to_string(error.byte));
  } catch (const Json::out_of_range&) {
    throw FatalError("broken JSON: a number is out of range");
  }
}

}  // namespace

TokenizerSpec parse_tokenizer_json(const std::string& text) {
  const Json file = parse(text);
  check_pipeline(file);
  const Json& model = value_of(file, "model");
  check_model(model);
  const Json &vocab = value_of(model, "vocab"), &merges = value_of(model, "merges");
  const Json& added_tokens = value_of(file, "added_tokens");
  if (!vocab.is_object()) fail("vocab", "is not an object");
  if (!merges.is_array()) fail("merges", "is not a list");
  if (!added_tokens.is_array()) fail("added_tokens", "is not a list");

  TokenizerSpec spec;
  spec.ignore_merges = value_of(model, "ignore_merges") == true;
  for (const auto& [token, id] : vocab.items()) spec.vocab.emplace(token, token_id(id, token));
  for (const Json& merge : merges) spec.merges.push_back(read_merge(merge, spec.merges.size()));
  for (const Json& token : added_tokens) spec.added_tokens.push_back(read_added_token(token));
  return spec;
}
