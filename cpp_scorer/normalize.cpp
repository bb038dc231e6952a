#include "normalize.h"

#include "unicode.h"

namespace {

std::string_view mark(std::string_view start, std::string_view piece, std::string& room) {
  room.assign(start);
  for (size_t begin = 0;;) {
    const size_t space = piece.find(' ', begin);
    room += piece.substr(begin, space - begin);
    if (space == piece.npos) return room;
    room += kSpaceMark;
    begin = space + 1;
  }
}

bool has_mark(std::string_view piece) {
  return piece.substr(0, 1) == " " || piece.substr(0, kSpaceMark.size()) == kSpaceMark;
}

}  // namespace

std::string_view as_it_is(std::string_view piece, bool, std::string&) { return piece; }

std::string_view nfc(std::string_view piece, bool, std::string& room) {
  return may_change_under_nfc(piece) ? room = to_nfc(piece) : piece;
}

std::string_view mark_spaces(std::string_view piece, bool, std::string& room) { return mark("", piece, room); }

std::string_view mark_spaces_and_start(std::string_view piece, bool, std::string& room) {
  return mark(kSpaceMark, piece, room);
}

std::string_view mark_spaces_and_bare_start(std::string_view piece, bool, std::string& room) {
  return mark(has_mark(piece) ? "" : kSpaceMark, piece, room);
}

std::string_view mark_spaces_and_bare_text(std::string_view piece, bool first, std::string& room) {
  return first ? mark_spaces_and_bare_start(piece, first, room) : mark("", piece, room);
}
