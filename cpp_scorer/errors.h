#pragma once

#include <stdexcept>
#include <string>

/// The program cannot go on: what() is one line that says what is wrong, where, and what to do. It ends with code 1.
class FatalError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// One row cannot be scored: what() is one line that says why. The row becomes an error record, the next is answered.
class RowError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// What is wrong with a field of a row.
inline RowError field_error(const std::string& field, const std::string& what) {
  return RowError("field '" + field + "': " + what);
}

inline constexpr const char* kOutOfMemory = "out of memory";  // what std::bad_alloc is called, of a row or the program
