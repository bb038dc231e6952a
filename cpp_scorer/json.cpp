#include "json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <limits>
#include <utility>
#include <vector>

#include "errors.h"
#include "json_text.h"
#include "preference.h"
#include "prompt.h"

namespace {

/// The columns of one form; a template calls the prompt's column by `field`. The reward's column may be
/// missing, but for a preference.
struct Form {
  const char *field, *prompt, *candidates, *reward;
};

// The same as in lib/questions/forms.py, except for one response a row: a stream cannot be grouped by prompt.
constexpr std::array<Form, 5> kForms{{{"context", "context", "endings", "label"},
                                      {"context", "citing_prompt", "holding_0", "label"},
                                      {"question", "question", "choices", "answer"},
                                      {"prompt", "prompt", "responses", "scores"},
                                      {"prompt", "prompt", "chosen", "rejected"}}};
const Form& kCasehold = kForms[1];
const Form& kMmlu = kForms[2];
const Form& kGraded = kForms[3];
const Form& kPreference = kForms[4];

/// The form of which the row has most columns, the first of equals.
const Form& recognise(const Json& row) {
  const auto count = [&](const Form& form) {
    return row.count(form.prompt) + row.count(form.candidates) + row.count(form.reward);
  };
  const Form& form = *std::max_element(kForms.begin(), kForms.end(),
                                       [&](const Form& a, const Form& b) { return count(a) < count(b); });
  if (!row.contains(form.prompt) && !row.contains(form.candidates)) {
    throw RowError("its fields are of no known form; those are (context, endings), (citing_prompt, holding_0, "
                     "holding_1, ...), (question, choices), (prompt, responses) and (prompt, chosen, rejected)");
  }
  return form;
}

const std::string& string_of(const Json& row, const std::string& field) {
  const auto found = row.find(field);
  if (found == row.end()) throw field_error(field, "is missing");
  if (!found->is_string()) throw field_error(field, "is not a string");
  return found->get_ref<const std::string&>();
}

std::vector<std::string> strings_of(const Json& row, const std::string& field) {
  const auto found = row.find(field);
  if (found == row.end()) throw field_error(field, "is missing");
  if (!found->is_array()) throw field_error(field, "is not a list of strings");
  std::vector<std::string> strings;
  for (const Json& value : *found) {
    if (!value.is_string()) throw field_error(field, "candidate " + std::to_string(strings.size()) + " is not a string");
    strings.push_back(value.get_ref<const std::string&>());
  }
  return strings;
}

bool is_holding(const std::string& name) {
  constexpr std::string_view prefix = "holding_";
  return name.size() > prefix.size() && name.compare(0, prefix.size(), prefix) == 0 &&
         name.find_first_not_of("0123456789", prefix.size()) == name.npos;
}

/// holding_0, holding_1, ... without a gap.
std::vector<std::string> holdings_of(const Json& row) {
  std::vector<std::string> strings;
  size_t count = 0;
  for (const auto& item : row.items()) count += is_holding(item.key());
  while (strings.size() < count) strings.push_back(string_of(row, "holding_" + std::to_string(strings.size())));
  return strings;
}

/// The index that a label's text names: an integer of up to 9 digits, or for MMLU's answers a letter; -1 for any other.
int64_t index_of(std::string_view text, bool letters) {
  if (letters && text.size() == 1 && text[0] >= 'A' && text[0] <= 'Z') return text[0] - 'A';
  const std::string_view digits = text.substr(!text.empty() && text[0] == '-');
  if (digits.empty() || digits.size() > 9 || digits.find_first_not_of("0123456789") != digits.npos) return -1;
  return std::stoll(std::string(text));
}

/// The index of the right ending, where the row says it.
std::optional<int64_t> label_of(const Json& row, const Form& form, size_t count) {
  const auto found = row.find(form.reward);
  if (found == row.end() || found->is_null()) return std::nullopt;
  int64_t label = -1;
  if (found->is_number_unsigned()) {
    label = static_cast<int64_t>(std::min<uint64_t>(found->get<uint64_t>(), count));
  } else if (found->is_number_integer()) {
    label = found->get<int64_t>();  // -0 is 0
  } else if (found->is_string()) {
    label = index_of(found->get_ref<const std::string&>(), &form == &kMmlu);
  }
  if (label < 0 || label >= static_cast<int64_t>(count)) {
    throw field_error(form.reward, "names none of the " + std::to_string(count) + " candidates (0 to " + std::to_string(count - 1) +
                          (&form == &kMmlu ? ", or a letter from A)" : ")"));
  }
  return label;
}

/// A score, which may be the text of a decimal number, as Python's float() reads it; NaN for any other.
double score_of(const Json& value) {
  constexpr double none = std::numeric_limits<double>::quiet_NaN();
  if (value.is_number()) return value.get<double>();
  if (!value.is_string()) return none;
  std::string digits;
  const std::string_view text = strip(value.get_ref<const std::string&>());
  const auto is_digit = [&](size_t at) { return at < text.size() && text[at] >= '0' && text[at] <= '9'; };
  for (size_t at = 0; at < text.size(); ++at) {
    if (text[at] == '_' && at > 0 && is_digit(at - 1) && is_digit(at + 1)) continue;
    digits += text[at];
  }
  // Infinities and what else from_chars knows are no scores. It takes no plus sign, and no locale's decimal point.
  if (digits.find_first_not_of("0123456789+-.eE") != digits.npos) return none;
  const char* const begin = digits.data() + (digits[0] == '+' && digits.size() > 1 && digits[1] != '-' ? 1 : 0);
  double number = 0;
  const auto [end, error] = std::from_chars(begin, digits.data() + digits.size(), number);
  if (end != digits.data() + digits.size()) return none;
  if (error == std::errc::result_out_of_range) {  // too near to 0, or too far from it
    return digits.find("e-") != digits.npos || digits.find("E-") != digits.npos ? 0 : none;
  }
  return error == std::errc() ? number : none;
}

/// The index of the highest score, the first of equals, where the row says them.
std::optional<int64_t> best_score(const Json& row, size_t count) {
  const auto found = row.find(kGraded.reward);
  if (found == row.end() || found->is_null()) return std::nullopt;
  std::vector<double> scores;
  if (found->is_array()) std::transform(found->begin(), found->end(), std::back_inserter(scores), score_of);
  const bool finite = std::all_of(scores.begin(), scores.end(), [](double score) { return std::isfinite(score); });
  if (scores.size() != count || !finite) {
    throw field_error(kGraded.reward, "is not a list of " + std::to_string(count) + " finite numbers, one a candidate");
  }
  return std::max_element(scores.begin(), scores.end()) - scores.begin();
}

void collect_numbers(const Json& value, const std::string& field, std::vector<double>& numbers) {
  if (value.is_array()) {
    for (const Json& part : value) collect_numbers(part, field, numbers);
  } else if (value.is_number()) {
    numbers.push_back(value.get<double>());
  } else {
    throw field_error(field, "is not a list of numbers");
  }
}

}  // namespace

struct JsonRow::Object {
  Json value;
};

JsonRow::JsonRow(std::string_view line) : object_(new Object{parse_json(line)}) {
  if (!object_->value.is_object()) throw RowError("the line is not a JSON object");
}

JsonRow::~JsonRow() = default;

std::optional<std::string> JsonRow::id() const {
  const auto found = object_->value.find("id");
  if (found == object_->value.end() || found->is_null()) return std::nullopt;
  if (found->is_number_integer()) return found->dump();
  if (!found->is_string() || found->get_ref<const std::string&>().empty()) throw field_error("id", "is not a string or an integer");
  return found->get<std::string>();
}

Question JsonRow::question() const {
  const Json& row = object_->value;
  const Form& form = recognise(row);
  Question question;
  for (const auto& [name, value] : row.items()) {
    const bool own = name == "id" || name == form.prompt || name == form.candidates || name == form.reward ||
                     (&form == &kCasehold && is_holding(name));
    if (value.is_string() && !own) question.fields[name] = value.get<std::string>();
  }
  if (&form == &kPreference) {
    Preference preference = preference_of(row);
    question.fields[form.field] = std::move(preference.prompt);
    question.endings = std::move(preference.answers);
    question.label = static_cast<int64_t>(question.endings.size()) - 1;
    return question;
  }
  question.fields[form.field] = string_of(row, form.prompt);
  question.endings = &form == &kCasehold ? holdings_of(row) : strings_of(row, form.candidates);
  const size_t count = question.endings.size();
  if (count < 2) throw field_error(form.candidates, std::to_string(count) + " candidates; a question needs 2 or more");
  question.label = &form == &kGraded ? best_score(row, count) : label_of(row, form, count);
  return question;
}

std::vector<double> JsonRow::numbers(const std::string& field) const {
  const auto found = object_->value.find(field);
  if (found == object_->value.end()) throw field_error(field, "is missing");
  std::vector<double> numbers;
  collect_numbers(*found, field, numbers);
  return numbers;
}

const std::string& JsonRow::text(const std::string& field) const { return string_of(object_->value, field); }

std::string json_quote(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}
