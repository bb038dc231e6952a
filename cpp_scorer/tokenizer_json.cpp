#include "tokenizer_json.h"

#include <algorithm>
#include <initializer_list>
#include <nlohmann/json.hpp>

#include "tokenizer_forms.h"
#include "tokenizer_reader.h"

using Json = nlohmann::json;

namespace {

constexpr size_t kLongestQuote = 200;

std::string quote(const Json& value) {
  const std::string quoted = value.dump(-1, ' ', true);
  return quoted.size() > kLongestQuote ? quoted.substr(0, kLongestQuote) + "..." : quoted;
}

[[noreturn]] void refuse(const std::string& field, const Json& value) {
  fail_at_field(field, quote(value) + " is not supported: the ids would not be exact");
}

/// The field's value, null where it is missing.
const Json& value_of(const Json& object, const char* field) {
  static const Json missing;
  const auto found = object.find(field);
  return found == object.end() ? missing : *found;
}

/// An unknown field may mean anything, so it is refused too.
void check_fields(const Json& object, const std::string& name, std::initializer_list<const char*> known) {
  if (!object.is_object()) fail_at_field(name, "is not an object");
  for (const auto& [field, value] : object.items()) {
    if (std::find(known.begin(), known.end(), field) == known.end()) refuse(name + "." + field, value);
  }
}

void check_one_of(const Json& object, const char* field, std::initializer_list<Json> supported) {
  const Json& value = value_of(object, field);
  if (std::find(supported.begin(), supported.end(), value) == supported.end()) refuse(field, value);
}

/// What adds special tokens around a text, or changes offsets; neither is asked for, so its settings may be anything.
bool is_post_processor(const Json& step) {
  const Json& type = value_of(step, "type");
  if (type != "Sequence") return step.is_null() || type == "ByteLevel" || type == "TemplateProcessing";
  const Json& steps = value_of(step, "processors");
  return std::all_of(steps.begin(), steps.end(), is_post_processor);
}

/// What stands around the model. What concerns offsets and decoding alone changes no ids and may be anything.
void check_pipeline(const Json& file) {
  check_fields(file, "tokenizer", {"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer",
                                   "post_processor", "decoder", "model"});
  check_one_of(file, "version", {"1.0"});
  check_one_of(file, "truncation", {nullptr});
  check_one_of(file, "padding", {nullptr});
  const Json& post_processor = value_of(file, "post_processor");
  if (!is_post_processor(post_processor)) refuse("post_processor", post_processor);
}

const TokenizerForm& form_of(const Json& file) {
  const Json &normalizer = value_of(file, "normalizer"), &pre_tokenizer = value_of(file, "pre_tokenizer");
  if (const TokenizerForm* const form = find_form(normalizer, pre_tokenizer)) return *form;
  fail_at_field("pre_tokenizer", quote(pre_tokenizer) + " after the normalizer " + quote(normalizer) +
                                     " is not supported, only the forms of " + known_families());
}

/// What is said about unknown tokens may be anything: a vocabulary that could need one is refused when its tokens are.
void check_model(const Json& model, const TokenizerForm& form) {
  check_fields(model, "model", {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
                                "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  check_one_of(model, "type", {"BPE", nullptr});  // older files leave it out
  check_one_of(model, "dropout", {nullptr, 0.0});
  check_one_of(model, "continuing_subword_prefix", {nullptr, ""});
  check_one_of(model, "end_of_word_suffix", {nullptr, ""});
  if (!form.byte_level) check_one_of(model, "byte_fallback", {true});
  check_one_of(model, "ignore_merges", {nullptr, false, true});
  if (!value_of(model, "vocab").is_object()) fail_at_field("vocab", "is not an object");
  if (!value_of(model, "merges").is_array()) fail_at_field("merges", "is not a list");
}

TokenizerSpec::AddedToken read_added_token(const Json& token) {
  check_fields(token, "added_tokens", {"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
  const Json& content = value_of(token, "content");
  if (!content.is_string()) fail_at_field("added_tokens", "a token lacks its content");
  const auto flag = [&](const char* field) {
    const Json& value = value_of(token, field);
    if (!value.is_boolean()) fail_at_field("added_tokens", "a token lacks '" + std::string(field) + "'");
    return value.get<bool>();
  };
  check_one_of(token, "single_word", {false});
  const auto& text = content.get_ref<const std::string&>();
  return {text, token_id(value_of(token, "id"), text), flag("normalized"), flag("lstrip"), flag("rstrip")};
}

}  // namespace

TokenizerSpec parse_tokenizer_json(const std::string& text) {
  TokenizerSpec spec;
  const Json file = read_tokenizer(text, spec);
  check_pipeline(file);
  spec.form = form_of(file);
  const Json &model = value_of(file, "model"), &added_tokens = value_of(file, "added_tokens");
  check_model(model, spec.form);
  spec.ignore_merges = value_of(model, "ignore_merges") == true;
  spec.leaves_out_unknown = value_of(model, "unk_token").is_null() && value_of(model, "byte_fallback") != true;
  if (!added_tokens.is_array()) fail_at_field("added_tokens", "is not a list");
  for (const Json& token : added_tokens) spec.added_tokens.push_back(read_added_token(token));
  return spec;
}
