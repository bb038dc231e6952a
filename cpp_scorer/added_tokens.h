#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Tokens that are looked for in the text before it is split into words, such as <|endoftext|>.
class AddedTokens {
 public:
  struct Match {
    size_t begin, end;
    uint32_t id;
  };

  /// Throws std::invalid_argument, what is wrong with the token, where it is empty or there already.
  void add(std::string content, uint32_t id);

  /// The leftmost token at or behind byte `from`, and of those that begin there the longest.
  std::optional<Match> find(std::string_view text, size_t from) const;

 private:
  struct Token {
    std::string content;
    uint32_t id;
  };
  std::array<std::vector<Token>, 256> by_first_byte_;  // each from the longest to the shortest
};
