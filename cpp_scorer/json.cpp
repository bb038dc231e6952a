#include "json.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "errors.h"

using Json = nlohmann::json;

namespace {

constexpr int kDeepest = 32;  // nested arrays and objects; no form has more than 2

[[noreturn]] void fail(const std::string& field, const std::string& what) {
  throw InputError("field '" + field + "': " + what);
}

Json parse(std::string_view line) {
  const auto bound_depth = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kDeepest) throw InputError("broken JSON: nested deeper than " + std::to_string(kDeepest) + " levels");
    return true;
  };
  try {
    return Json::parse(line.begin(), line.end(), bound_depth);
  } catch (const Json::parse_error& error) {
    throw InputError("broken JSON or not UTF-8, at byte " + std::to_string(error.byte));
  } catch (const Json::out_of_range&) {
    throw InputError("broken JSON: a number is out of range");
  }
}

const Json& member(const Json& object, const std::string& field) {
  const auto found = object.find(field);
  if (found == object.end()) fail(field, "is missing");
  return *found;
}

const std::string& string_of(const Json& value, const std::string& field) {
  if (!value.is_string()) fail(field, "must be a string");
  return value.get_ref<const std::string&>();
}

std::vector<std::string> strings_of(const Json& object, const std::string& field) {
  const Json& list = member(object, field);
  if (!list.is_array()) fail(field, "must be a list of strings");
  std::vector<std::string> strings;
  for (size_t k = 0; k < list.size(); ++k) strings.push_back(string_of(list[k], field + "[" + std::to_string(k) + "]"));
  return strings;
}

/// holding_0, holding_1, ... as far as they go.
std::vector<std::string> numbered_strings(const Json& object, const std::string& prefix) {
  std::vector<std::string> strings;
  for (std::string field = prefix + "0"; object.contains(field); field = prefix + std::to_string(strings.size())) {
    strings.push_back(string_of(object[field], field));
  }
  return strings;
}

/// The optional index of the right ending; a letter too where the form allows it.
std::optional<int64_t> label_of(const Json& object, const std::string& field, size_t count, bool letters) {
  const auto found = object.find(field);
  if (found == object.end() || found->is_null()) return std::nullopt;
  int64_t label = -1;
  if (found->is_number_integer()) {
    label = found->get<int64_t>();
  } else if (letters && found->is_string() && found->get_ref<const std::string&>().size() == 1) {
    label = found->get_ref<const std::string&>()[0] - 'A';
  } else {
    fail(field, letters ? "must be an integer or a capital letter" : "must be an integer");
  }
  if (label < 0 || label >= static_cast<int64_t>(count)) {
    fail(field, found->dump() + " names none of the " + std::to_string(count) + " endings");
  }
  return label;
}

/// Graded rows: the best score's index, the first of equals.
std::optional<int64_t> best_score(const Json& object, size_t count) {
  const auto found = object.find("scores");
  if (found == object.end() || found->is_null()) return std::nullopt;
  if (!found->is_array() || found->size() != count) fail("scores", "must be a list of one number a response");
  std::vector<double> scores;
  for (const Json& score : *found) {
    if (!score.is_number()) fail("scores", "must be a list of one number a response");
    scores.push_back(score.get<double>());
  }
  return std::max_element(scores.begin(), scores.end()) - scores.begin();
}

}  // namespace

struct JsonRow::Object {
  Json value;
};

JsonRow::JsonRow(std::string_view line) : object_(new Object{parse(line)}) {
  if (!object_->value.is_object()) throw InputError("the line must be a JSON object");
}

JsonRow::~JsonRow() = default;

std::optional<std::string> JsonRow::id() const {
  const auto found = object_->value.find("id");
  if (found == object_->value.end() || found->is_null()) return std::nullopt;
  if (!found->is_string() && !found->is_number_integer()) fail("id", "must be a string or an integer");
  return found->dump();
}

Question JsonRow::question() const {
  const Json& object = object_->value;
  Question question;
  std::string endings_field;
  if (object.contains("endings")) {
    endings_field = "endings";
    question.fields["context"] = string_of(member(object, "context"), "context");
    question.endings = strings_of(object, "endings");
    question.label = label_of(object, "label", question.endings.size(), false);
  } else if (object.contains("citing_prompt")) {
    endings_field = "holding_0";
    question.fields["context"] = string_of(object["citing_prompt"], "citing_prompt");
    question.endings = numbered_strings(object, "holding_");
    question.label = label_of(object, "label", question.endings.size(), false);
  } else if (object.contains("choices")) {
    endings_field = "choices";
    question.fields["question"] = string_of(member(object, "question"), "question");
    question.endings = strings_of(object, "choices");
    question.label = label_of(object, "answer", question.endings.size(), true);
  } else if (object.contains("responses")) {
    endings_field = "responses";
    question.fields["prompt"] = string_of(member(object, "prompt"), "prompt");
    question.endings = strings_of(object, "responses");
    question.label = best_score(object, question.endings.size());
  } else {
    throw InputError("no known form: needs context and endings, citing_prompt and holding_0.., question and choices, "
                     "or prompt and responses");
  }
  if (question.endings.size() < 2) fail(endings_field, "fewer than 2 candidates");
  return question;
}

const std::string& JsonRow::text() const { return string_of(member(object_->value, "text"), "text"); }

std::string json_quote(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}
