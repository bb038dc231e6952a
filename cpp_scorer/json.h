#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "question.h"

/// One line of the input: a JSON object in one of the forms that eval_mc.py reads too. Only json.cpp parses JSON.
///
/// LexGLUE (context, endings, label?), the original CaseHOLD columns (citing_prompt, holding_0.., label?), MMLU style
/// (question, choices, answer?), graded (prompt, responses, scores?) and TRL's preference pairs (prompt, chosen,
/// rejected). Every RowError names the field.
class JsonRow {
 public:
  /// Throws RowError where the line is no JSON object, is not UTF-8, or holds a lone surrogate.
  explicit JsonRow(std::string_view line);
  ~JsonRow();

  /// The row's own id; none where it has none. Throws RowError for one that is no string or integer.
  std::optional<std::string> id() const;

  /// The candidates, and as fields the prompt and every other string column, for the template to name.
  /// Throws RowError for a form it does not know, a broken field, fewer than 2 candidates, a label out of range.
  Question question() const;

  /// The numbers of a field, those of lists within lists one after the other. Throws RowError for anything else.
  std::vector<double> numbers(const std::string& field) const;

  /// A field's text. Throws RowError where it is missing or no string.
  const std::string& text(const std::string& field) const;

 private:
  struct Object;
  std::unique_ptr<const Object> object_;
};

/// Text as a JSON string. Bytes that are not UTF-8 become U+FFFD.
std::string json_quote(const std::string& text);
