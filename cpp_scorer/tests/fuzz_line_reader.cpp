// Fuzz target over LineReader: however the bytes of a stream are cut, the lines are those of the whole text.
//   g++:    fuzz_line_reader SECONDS [SEED], random mutations of the streams below
//   clang:  -DLIBFUZZER -fsanitize=fuzzer

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string_view>

#include "fuzz_main.h"
#include "line_reader.h"

namespace {

/// Makes the text standard input, of which every read gives one piece.
void feed(std::string_view text, size_t piece) {
  int ends[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, ends) != 0) std::abort();
  for (size_t begin = 0; begin < text.size(); begin += piece) {
    const std::string_view part = text.substr(begin, piece);
    if (send(ends[1], part.data(), part.size(), MSG_DONTWAIT) != static_cast<ssize_t>(part.size())) std::abort();
  }
  if (dup2(ends[0], STDIN_FILENO) < 0) std::abort();
  close(ends[0]), close(ends[1]);
}

/// The lines of a text by their numbers: what stands between line feeds and is not blank, less a byte order mark.
std::vector<std::pair<size_t, std::string>> lines_of(std::string_view text) {
  std::vector<std::pair<size_t, std::string>> lines;
  for (size_t number = 1; !text.empty(); ++number) {
    std::string_view line = text.substr(0, text.find('\n'));
    text.remove_prefix(std::min(line.size() + 1, text.size()));
    if (number == 1 && line.substr(0, 3) == "\xEF\xBB\xBF") line.remove_prefix(3);
    if (line.find_first_not_of(" \t\r") != line.npos) lines.emplace_back(number, line);
  }
  return lines;
}

}  // namespace

/// The first byte says how long the pieces are.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), std::min<size_t>(size, 10'000));
  if (text.size() < 2) return 0;
  const size_t longest = 1 + data[0];
  feed(text.substr(1), std::max(longest, text.size() / 100));  // a socket holds some 200 pieces
  LineReader reader("-", 1 << 20);
  for (const auto& [number, line] : lines_of(text.substr(1))) {
    const std::optional<Line> found = reader.next();
    if (!found || found->number != number || found->text != line || !found->error.empty()) __builtin_trap();
  }
  if (reader.next()) __builtin_trap();
  return 0;
}

const std::vector<std::string>& fuzz_seeds() {
  static const std::vector<std::string> seeds{
      std::string("\x01\xEF\xBB\xBF{\"text\": 1}\r\n\n \t\r\n{}\n"), std::string("\xff" "a\nb\n\nc"),
      std::string("\x02\0\n\xEF\xBB\xBF\n\xEF\xBB", 8), std::string("\x40") + std::string(300, 'x') + "\n" +
      std::string(300, '\n') + "y"};
  return seeds;
}
