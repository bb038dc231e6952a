#pragma once

#include <string>
#include <string_view>

/// The token that requests must bear, if there is one.
class BearerToken {
 public:
  /// From the first line of `file`; where that is empty, from the environment's SCORE_TOKEN; else there is none. Throws
  /// FatalError where the file cannot be read or holds no token.
  explicit BearerToken(const std::string& file);

  bool is_set() const { return !digest_.empty(); }

  /// Whether an Authorization header bears it. Takes the same time whatever is wrong with it.
  bool admits(std::string_view authorization) const;

 private:
  std::string digest_;
};
