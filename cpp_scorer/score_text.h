#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "engine.h"

/// The questions of a text: JSON lines, or a single JSON object that may go over several lines.
std::vector<PreparedQuestion> questions_of(const Engine& engine, std::string_view text);

/// The lines of all answers, one after the other.
std::string text_of(const std::vector<Answer>& answers);
