#pragma once

#include <algorithm>
#include <string>

/// The text as one line of a message: names and values from a model file may hold line feeds, or a terminal's commands.
inline std::string one_line(std::string text) {
  std::replace_if(text.begin(), text.end(), [](unsigned char byte) { return byte < 0x20 || byte == 0x7F; }, ' ');
  return text;
}
