#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

/// SHA-256 (FIPS 180-4), fed piece by piece.
class Sha256 {
 public:
  /// Whether this processor has instructions for it (x86 SHA): some six times as fast as without.
  static bool in_hardware();

  explicit Sha256(bool hardware = in_hardware()) : hardware_(hardware) {}

  void update(std::string_view bytes);
  /// The digest of everything fed so far as 64 lower-case hex digits. Ends the computation.
  std::string hex_digest();

 private:
  void process_blocks(const char* blocks, size_t count);
  void process_block(const unsigned char* block);
  void process_blocks_in_hardware(const unsigned char* blocks, size_t count);

  bool hardware_;
  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<char, 64> block_{};
  size_t filled_ = 0;
  uint64_t length_ = 0;  // bytes
};

/// SHA-256 of a file as 64 lower-case hex digits. Throws FatalError where it cannot be read.
std::string sha256_of_file(const std::string& path);
