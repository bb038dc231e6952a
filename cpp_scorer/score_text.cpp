#include "score_text.h"

#include "json_text.h"

namespace {

constexpr std::string_view kBlank = " \t\r\n";

/// Whether the text is one object over several lines. JSON lines of which the first is cut short are none.
bool is_one_object(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == text.npos || text[begin] != '{') return false;
  const std::string_view line = text.substr(begin, text.find('\n', begin) - begin);
  return line.size() < text.size() && !Json::accept(line.begin(), line.end()) && Json::accept(text.begin(), text.end());
}

}  // namespace

std::vector<Line> rows_of(std::string_view text, size_t longest_line, size_t most) {
  if (is_one_object(text) && text.size() <= longest_line) return {{1, std::string(text), {}}};
  return lines_of(text, longest_line, most);
}

std::vector<PreparedQuestion> prepare(const Engine& engine, const std::vector<Line>& rows, size_t begin, size_t end) {
  std::vector<PreparedQuestion> questions;
  for (size_t row = begin; row < end; ++row) questions.push_back(engine.prepare(rows[row], row));
  return questions;
}

std::string text_of(const std::vector<Answer>& answers) {
  std::string text;
  for (const Answer& answer : answers) text += answer.line;
  return text;
}
