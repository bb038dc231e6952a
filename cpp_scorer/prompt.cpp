#include "prompt.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "errors.h"
#include "unicode.h"
#include "utf8.h"

namespace {

constexpr std::string_view kWhiteSpace = " \t\n\v\f\r";
constexpr std::string_view kNeutralPrompt = "Answer:";
constexpr int64_t kKeptContext = 64;  // tokens, where endings are long

/// A character of a field's name, Python's \w.
bool is_word(char32_t code) {
  return (char_class(code) & (kLetter | kNumber)) != 0 || code == '_';
}

/// The end of the name that begins at byte `at` of checked text.
size_t name_end(std::string_view text, size_t at) {
  for (size_t next = at; at < text.size() && is_word(next_code_point(text, next));) at = next;
  return at;
}

std::string_view strip_right(std::string_view text) {
  return text.substr(0, text.find_last_not_of(kWhiteSpace) + 1);
}

/// A `{name}` in a template: where it begins and ends, and its name.
struct Placeholder {
  size_t begin, end;
  std::string_view name;
};

std::optional<Placeholder> next_placeholder(std::string_view text, size_t from) {
  for (size_t open = text.find('{', from); open != text.npos; open = text.find('{', open + 1)) {
    const size_t close = name_end(text, open + 1);
    if (close < text.size() && text[close] == '}' && close > open + 1) {
      return Placeholder{open, close + 1, text.substr(open + 1, close - open - 1)};
    }
  }
  return std::nullopt;
}

const std::string& value_of(std::string_view name, const Question& question) {
  const auto found = question.fields.find(std::string(name));
  if (found == question.fields.end()) {
    throw RowError("field '" + std::string(name) + "' is missing; the model's template needs it");
  }
  return found->second;
}

/// Replaces every placeholder once, from left to right; the values are never looked into.
std::string fill(std::string_view text, const Question& question) {
  std::string filled;
  size_t done = 0;
  while (const auto placeholder = next_placeholder(text, done)) {
    filled += text.substr(done, placeholder->begin - done);
    filled += value_of(placeholder->name, question);
    done = placeholder->end;
  }
  return filled.append(text.substr(done));
}

std::string neutral_prompt(std::string_view template_text) {
  std::string text;
  size_t done = 0;
  while (const auto placeholder = next_placeholder(template_text, done)) {
    text += template_text.substr(done, placeholder->begin - done);
    done = placeholder->end;
  }
  text += template_text.substr(done);
  text.resize(strip_right(text).size());
  return text.empty() ? std::string(kNeutralPrompt) : text;
}

}  // namespace

std::string_view strip(std::string_view text) {
  text = strip_right(text);
  return text.substr(std::min(text.find_first_not_of(kWhiteSpace), text.size()));
}

PromptEncoder::PromptEncoder(PromptConfig config, Encode encode)
    : config_(std::move(config)), encode_(std::move(encode)) {
  const std::string_view text = config_.template_text;
  if (find_invalid_utf8(text) != text.npos) throw FatalError("the model's template is not UTF-8; export it again");
  neutral_prompt_ids_ = opened(encode_(neutral_prompt(text)));
  for (auto found = next_placeholder(text, 0); found; found = next_placeholder(text, found->end)) {
    if (found->name == "context" || found->name == "question" || found->name == "prompt") {
      prefix_template_ = text.substr(0, found->begin);
      main_field_ = found->name;
      suffix_template_ = text.substr(found->end);
      return;
    }
  }
  throw FatalError("the model's template holds none of {context}, {question} and {prompt}; export the model again");
}

PromptEncoder::Pieces PromptEncoder::render(const Question& question) const {
  Pieces pieces{fill(prefix_template_, question), value_of(main_field_, question),
                fill(suffix_template_, question)};
  // The prompt's end is stripped, and where a piece is white space alone that end lies in the piece before it.
  pieces.suffix.resize(strip_right(pieces.suffix).size());
  if (pieces.suffix.empty()) pieces.body.resize(strip_right(pieces.body).size());
  if (pieces.suffix.empty() && pieces.body.empty()) pieces.prefix.resize(strip_right(pieces.prefix).size());
  return pieces;
}

EncodedQuestion PromptEncoder::encode(const Question& question) const {
  const Pieces pieces = render(question);
  EncodedQuestion encoded;
  for (size_t k = 0; k < question.endings.size(); ++k) {
    const std::string_view ending = strip(question.endings[k]);
    std::vector<int64_t> ids = encode_(" " + std::string(ending));
    if (config_.end_token_id >= 0) ids.push_back(config_.end_token_id);
    if (ids.empty()) throw RowError("ending " + std::to_string(k) + " has no tokens");
    encoded.ending_bytes.push_back(std::max<int64_t>(1, static_cast<int64_t>(ending.size())));
    encoded.ending_ids.push_back(std::move(ids));
  }
  encoded.prompt_ids = opened(encode_(pieces.prefix + pieces.body + pieces.suffix));
  if (encoded.prompt_ids.empty()) throw RowError("the prompt is empty; the first ending token needs one to follow");
  fit(pieces, encoded);
  return encoded;
}

std::vector<int64_t> PromptEncoder::opened(std::vector<int64_t> prompt_ids) const {
  if (config_.start_token_id >= 0) prompt_ids.insert(prompt_ids.begin(), config_.start_token_id);
  return prompt_ids;
}

void PromptEncoder::fit(const Pieces& pieces, EncodedQuestion& encoded) const {
  const bool bounded = config_.max_ending >= 0;
  int64_t longest = 0;
  for (const auto& ids : encoded.ending_ids) longest = std::max(longest, static_cast<int64_t>(ids.size()));
  if (bounded) longest = std::min(longest, config_.max_ending);
  if (static_cast<int64_t>(encoded.prompt_ids.size()) + longest > config_.max_length) {
    // The pieces are encoded apart only here, so that the cut knows where the context lies among the ids.
    std::vector<int64_t> ids = opened(encode_(pieces.prefix));
    const std::vector<int64_t> body = encode_(pieces.body), suffix = encode_(pieces.suffix);
    const auto body_size = static_cast<int64_t>(body.size());
    const int64_t room = config_.max_length - static_cast<int64_t>(ids.size() + suffix.size());
    if (bounded) {
      longest = std::min(longest, std::max<int64_t>(1, room - std::min({kKeptContext, body_size, room / 2})));
    }
    if (longest > room) {
      throw RowError("endings and template need " + std::to_string(config_.max_length - room + longest) +
                     " tokens, over the model's max length of " + std::to_string(config_.max_length));
    }
    encoded.truncated = std::max<int64_t>(0, body_size + longest - room);
    ids.insert(ids.end(), body.begin() + encoded.truncated, body.end());
    ids.insert(ids.end(), suffix.begin(), suffix.end());
    encoded.prompt_ids = std::move(ids);
    if (encoded.prompt_ids.empty()) throw RowError("the model's max length leaves nothing of the prompt");
  }
  std::vector<int64_t> cut;
  for (auto& ids : encoded.ending_ids) {
    cut.push_back(std::max<int64_t>(0, static_cast<int64_t>(ids.size()) - longest));
    ids.resize(ids.size() - static_cast<size_t>(cut.back()));
  }
  if (*std::max_element(cut.begin(), cut.end()) > 0) encoded.endings_truncated = std::move(cut);
}
