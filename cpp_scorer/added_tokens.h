#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// Tokens that are looked for in the text before it is split into words, such as <|endoftext|>.
class AddedTokens {
 public:
  struct Token {
    std::string content;
    uint32_t id;
    bool lstrip, rstrip;  // takes the white space before it, and behind it
  };

  struct Match {
    size_t begin, end;  // bytes of the text, with the white space that the token takes
    uint32_t id;
  };

  /// Throws FatalError where a token is empty or there twice.
  explicit AddedTokens(std::vector<Token> tokens);

  /// From left to right what stands in checked UTF-8; of the tokens that begin at one place the longest.
  std::vector<Match> find_all(std::string_view text) const;

 private:
  const Token* longest_at(std::string_view text, size_t at) const;

  std::vector<Token> tokens_;                       // sorted
  std::array<std::pair<size_t, size_t>, 256> by_first_byte_{};  // the tokens that begin with it: from, to
};
