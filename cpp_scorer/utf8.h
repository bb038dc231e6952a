#pragma once

#include <cstddef>
#include <string>
#include <string_view>

/// UTF-8, checked once and decoded after that without further checks.

/// The byte at which `text` stops being UTF-8 (overlong forms, surrogates and what lies past U+10FFFF are none), or npos.
size_t find_invalid_utf8(std::string_view text);

/// The code point at byte `at` of checked text; moves `at` behind it.
inline char32_t next_code_point(std::string_view text, size_t& at) {
  const auto byte = [&](size_t offset) { return static_cast<unsigned char>(text[at + offset]); };
  const char32_t lead = byte(0);
  char32_t code = lead;
  size_t size = 1;
  if (lead >= 0xF0) {
    code = (lead & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F);
    size = 4;
  } else if (lead >= 0xE0) {
    code = (lead & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F);
    size = 3;
  } else if (lead >= 0x80) {
    code = (lead & 0x1F) << 6 | (byte(1) & 0x3F);
    size = 2;
  }
  at += size;
  return code;
}

void append_utf8(std::string& text, char32_t code);
