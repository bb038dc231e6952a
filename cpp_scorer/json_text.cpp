#include "json_text.h"

#include "errors.h"

namespace {

constexpr int kDeepest = 32;  // nested arrays and objects; no form has more than 4

/// Whether arrays and objects nest too deep. What else is wrong with the line, the parser says.
bool is_too_deep(std::string_view line) {
  int depth = 0;
  bool in_string = false;
  for (size_t at = 0; at < line.size(); ++at) {
    const char byte = line[at];
    if (byte == '"') {
      in_string = !in_string;
    } else if (in_string) {
      at += byte == '\\';
    } else if (byte == '[' || byte == '{') {
      if (++depth > kDeepest) return true;
    } else if (byte == ']' || byte == '}') {
      --depth;
    }
  }
  return false;
}

}  // namespace

Json parse_json(std::string_view line) {
  // The parser would take a NUL for the end, and pass over a byte order mark.
  const size_t nul = line.find('\0'), mark = line.rfind("\xEF\xBB\xBF", 0);
  if (nul != line.npos || mark == 0) {
    throw RowError("broken JSON or not UTF-8, at byte " + std::to_string(mark == 0 ? 1 : nul + 1));
  }
  // Counted here: a callback that bounds the parser's depth makes it walk an object anew for each value in it.
  if (is_too_deep(line)) throw RowError("broken JSON: nested deeper than " + std::to_string(kDeepest) + " levels");
  try {
    return Json::parse(line.begin(), line.end());
  } catch (const Json::parse_error& error) {
    throw RowError("broken JSON or not UTF-8, at byte " + std::to_string(error.byte));
  } catch (const Json::out_of_range&) {
    throw RowError("broken JSON: a number is out of range");
  }
}
