#pragma once

#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

/// Checks for the unit tests: the first that fails says where, and ends the program with code 1.

template <typename Value>
void print(std::ostream& out, const Value& value) {
  out << value;
}

template <typename Value>
void print(std::ostream& out, const std::vector<Value>& values) {
  out << "[ ";
  for (const Value& value : values) print(out, value), out << " ";
  out << "]";
}

template <typename Left, typename Right>
void check_equal(const Left& left, const Right& right, const char* text, const char* file, int line) {
  if (left == right) return;
  std::ostringstream message;
  message << file << ":" << line << ": " << text << "\n  left:  ";
  print(message, left);
  message << "\n  right: ";
  print(message, right);
  std::cerr << message.str() << std::endl;
  std::_Exit(1);  // at once, whichever thread it is in
}

#define CHECK(condition) check_equal(static_cast<bool>(condition), true, #condition, __FILE__, __LINE__)
#define CHECK_EQUAL(left, right) check_equal(left, right, #left " == " #right, __FILE__, __LINE__)

/// The expression must throw `Exception` whose message holds `part`.
#define CHECK_THROWS(expression, Exception, part)                                                   \
  do {                                                                                              \
    std::string thrown = "nothing";                                                                 \
    try {                                                                                           \
      static_cast<void>(expression);                                                                \
    } catch (const Exception& error) {                                                              \
      thrown = error.what();                                                                        \
    }                                                                                               \
    if (thrown.find(part) == std::string::npos) check_equal(thrown, std::string(part), #expression, __FILE__, __LINE__); \
  } while (false)
