#include "score_text.h"

namespace {

constexpr std::string_view kBlank = " \t\r\n";

/// Whether the text is one object over several lines: its first line opens it, and does not close it.
bool is_one_object(std::string_view text) {
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == text.npos || text[begin] != '{') return false;
  const std::string_view line = text.substr(begin, text.find('\n', begin) - begin);
  return line[line.find_last_not_of(kBlank)] != '}';
}

}  // namespace

std::vector<PreparedQuestion> questions_of(const Engine& engine, std::string_view text) {
  std::vector<Line> lines;
  if (is_one_object(text)) {
    lines.push_back({1, std::string(text), {}});
  } else {
    lines = lines_of(text, engine.options().longest_line);
  }
  std::vector<PreparedQuestion> questions;
  for (size_t row = 0; row < lines.size(); ++row) questions.push_back(engine.prepare(lines[row], row));
  return questions;
}

std::string text_of(const std::vector<Answer>& answers) {
  std::string text;
  for (const Answer& answer : answers) text += answer.line;
  return text;
}
