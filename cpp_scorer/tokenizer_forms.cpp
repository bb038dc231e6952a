#include "tokenizer_forms.h"

#include <string_view>
#include <vector>

using Json = nlohmann::json;

namespace {

Json sequence(const char* list, Json first, Json second) { return {{"type", "Sequence"}, {list, {first, second}}}; }

Json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", use_regex}};
}

Json split_by(std::string_view regex) {
  const Json split = {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
  return sequence("pretokenizers", split, byte_level(false));
}

Json metaspace(const char* scheme) {
  return {{"type", "Metaspace"}, {"replacement", kSpaceMark}, {"prepend_scheme", scheme}, {"split", false}};
}

struct KnownForm {
  Json normalizer, pre_tokenizer;
  TokenizerForm form;
};

const std::vector<KnownForm>& known_forms() {
  const Json none, composed = {{"type", "NFC"}};
  const Json digits = {{"type", "Digits"}, {"individual_digits", true}};
  const Json start = {{"type", "Prepend"}, {"prepend", kSpaceMark}};
  const Json spaces = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", kSpaceMark}};
  // Where spaces have become marks it finds none.
  const Json at_spaces = {
      {"type", "Split"}, {"pattern", {{"String", " "}}}, {"behavior", "MergedWithPrevious"}, {"invert", false}};
  static const std::vector<KnownForm> forms{
      {composed, split_by(kQwen2Pattern), {"Qwen2", nfc, as_it_is, {qwen2_word_end}, true}},
      {none, split_by(kLlama3Pattern), {"Llama 3", as_it_is, as_it_is, {llama3_word_end}, true}},
      {none, byte_level(true), {"GPT-2", as_it_is, as_it_is, {gpt2_word_end}, true}},
      {composed, byte_level(true), {"Pythia", nfc, as_it_is, {gpt2_word_end}, true}},
      {none, sequence("pretokenizers", digits, byte_level(true)),
       {"SmolLM2", as_it_is, as_it_is, {digit_end, gpt2_word_end}, true}},
      {none, split_by(kO200kPattern), {"gpt-oss", as_it_is, as_it_is, {o200k_word_end}, true}},
      {none, split_by(kTekkenPattern), {"Mistral NeMo", as_it_is, as_it_is, {tekken_word_end}, true}},
      {sequence("normalizers", start, spaces), none, {"Llama 2", mark_spaces_and_start, as_it_is, {}, false}},
      {none, metaspace("first"), {"Mistral 7B", as_it_is, mark_spaces_and_bare_text, {}, false}},
      {none, metaspace("always"), {"Mistral 7B", as_it_is, mark_spaces_and_bare_start, {}, false}},
      {none, metaspace("never"), {"Mistral 7B", as_it_is, mark_spaces, {}, false}},
      {spaces, at_spaces, {"Gemma", mark_spaces, as_it_is, {}, false}},
      {spaces, none, {"Gemma", mark_spaces, as_it_is, {}, false}}};
  return forms;
}

/// Without what changes no ids, and with what may be left out.
Json canonical(Json step) {
  if (const auto steps = step.find("pretokenizers"); steps != step.end()) {
    for (Json& inner : *steps) inner = canonical(inner);
  }
  if (step.is_object() && step.value("type", Json()) == "ByteLevel") {
    step.erase("trim_offsets");
    step.emplace("use_regex", true);
  }
  // To keep what matches is to split there, since the known patterns match all of a text.
  if (step.is_object() && step.value("behavior", Json()) == "Removed" && step.value("invert", Json()) == true) {
    step.update({{"behavior", "Isolated"}, {"invert", false}});
  }
  return step;
}

}  // namespace

const TokenizerForm* find_form(const Json& normalizer, const Json& pre_tokenizer) {
  const Json steps = canonical(pre_tokenizer);
  for (const KnownForm& known : known_forms()) {
    if (known.normalizer == normalizer && known.pre_tokenizer == steps) return &known.form;
  }
  return nullptr;
}

std::string known_families() {
  std::string names;
  for (const KnownForm& known : known_forms()) {
    if (names.find(known.form.name) == names.npos) names += (names.empty() ? "" : ", ") + std::string(known.form.name);
  }
  return names;
}
