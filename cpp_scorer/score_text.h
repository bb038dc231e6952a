#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

#include "engine.h"

/// The rows of a text, the first `most` of them: JSON lines, or a single JSON object that may go over several lines.
std::vector<Line> rows_of(std::string_view text, size_t longest_line, size_t most);

/// The questions of the rows from `begin` to before `end`; one without an id has its place among all rows.
std::vector<PreparedQuestion> prepare(const Engine& engine, const std::vector<Line>& rows, size_t begin, size_t end);

/// The lines of all answers, one after the other.
std::string text_of(const std::vector<Answer>& answers);
