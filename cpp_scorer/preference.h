#pragma once

#include <string>
#include <vector>

#include "json_text.h"

/// Preference pairs in TRL's columns, by the rules of lib/questions/preferences.py: prompt, chosen and rejected, each a
/// string or a list of messages, rejected also a list of either.
struct Preference {
  std::string prompt;
  std::vector<std::string> answers;  // the rejected ones, then the chosen one
};

/// Throws RowError that names the field.
Preference preference_of(const Json& row);
