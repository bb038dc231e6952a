#include "pretokenize.h"

#include "unicode.h"
#include "utf8.h"

namespace {

bool is_newline(char32_t code) { return code == '\r' || code == '\n'; }

/// The end of the run of characters of one class that begins at `at`.
size_t run_end(std::string_view text, size_t at, CharClass run_class) {
  while (at < text.size()) {
    size_t next = at;
    if (char_class(next_code_point(text, next)) != run_class) break;
    at = next;
  }
  return at;
}

bool is_at(std::string_view text, size_t at, CharClass wanted) {
  return at < text.size() && char_class(next_code_point(text, at)) == wanted;
}

/// (?i:'s|'t|'re|'ve|'m|'ll|'d): its bytes, or 0. Case folding makes the long s (U+017F) an s.
size_t contraction_size(std::string_view text, size_t start) {
  if (text[start] != '\'') return 0;
  const auto letter = [&](size_t offset) {
    const char byte = start + offset < text.size() ? text[start + offset] : '\0';
    return byte >= 'A' && byte <= 'Z' ? static_cast<char>(byte + ('a' - 'A')) : byte;
  };
  const char first = letter(1), second = letter(2);
  if (first == 's' || first == 't' || first == 'm' || first == 'd') return 2;
  if ((first == 'r' || first == 'v') && second == 'e') return 3;
  if (first == 'l' && second == 'l') return 3;
  return text.substr(start + 1, 2) == "\u017F" ? 3 : 0;
}

/// \s*[\r\n]+|\s+(?!\S)|\s+ from the first character of white space.
size_t white_space_end(std::string_view text, size_t start) {
  size_t end = start, last = start, behind_newline = start;
  while (end < text.size()) {
    size_t next = end;
    const char32_t code = next_code_point(text, next);
    if (char_class(code) != CharClass::kSpace) break;
    if (is_newline(code)) behind_newline = next;
    last = end;
    end = next;
  }
  if (behind_newline > start) return behind_newline;
  // Before a word the run gives back its last character, which then begins the word's own match.
  return end == text.size() || last == start ? end : last;
}

}  // namespace

size_t word_end(std::string_view text, size_t start) {
  if (const size_t size = contraction_size(text, start)) return start + size;
  size_t next = start;
  const char32_t first = next_code_point(text, next);
  const CharClass first_class = char_class(first);
  if (first_class == CharClass::kNumber) return next;
  const bool is_letter = first_class == CharClass::kLetter;
  if (is_letter || (!is_newline(first) && is_at(text, next, CharClass::kLetter))) {
    return run_end(text, next, CharClass::kLetter);
  }
  if (first_class == CharClass::kOther || (first == ' ' && is_at(text, next, CharClass::kOther))) {
    size_t end = run_end(text, next, CharClass::kOther);
    while (end < text.size() && is_newline(static_cast<unsigned char>(text[end]))) ++end;
    return end;
  }
  return white_space_end(text, start);
}
