#pragma once

#include <stdexcept>

/// Bad input, model or output: what() is one line that says what is wrong and where. The program ends with code 1,
/// or, where one row is at fault, that row becomes an error record.
class InputError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
