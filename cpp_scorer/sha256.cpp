#include "sha256.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#endif

#include "errors.h"

namespace {

alignas(16) constexpr std::array<uint32_t, 64> kRoundConstants{
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

uint32_t rotate_right(uint32_t value, int count) { return value >> count | value << (32 - count); }

}  // namespace

void Sha256::process_block(const unsigned char* block) {
  std::array<uint32_t, 64> schedule;
  for (size_t i = 0; i < 16; ++i) {
    schedule[i] = static_cast<uint32_t>(block[4 * i]) << 24 | static_cast<uint32_t>(block[4 * i + 1]) << 16 |
                  static_cast<uint32_t>(block[4 * i + 2]) << 8 | block[4 * i + 3];
  }
  for (size_t i = 16; i < 64; ++i) {
    const uint32_t a = schedule[i - 15], b = schedule[i - 2];
    schedule[i] = schedule[i - 16] + (rotate_right(a, 7) ^ rotate_right(a, 18) ^ a >> 3) + schedule[i - 7] +
                  (rotate_right(b, 17) ^ rotate_right(b, 19) ^ b >> 10);
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (size_t i = 0; i < 64; ++i) {
    const uint32_t sum1 = rotate_right(e, 6) ^ rotate_right(e, 11) ^ rotate_right(e, 25);
    const uint32_t first = h + sum1 + ((e & f) ^ (~e & g)) + kRoundConstants[i] + schedule[i];
    const uint32_t sum0 = rotate_right(a, 2) ^ rotate_right(a, 13) ^ rotate_right(a, 22);
    const uint32_t second = sum0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g, g = f, f = e, e = d + first, d = c, c = b, b = a, a = first + second;
  }
  const std::array<uint32_t, 8> result{a, b, c, d, e, f, g, h};
  for (size_t i = 0; i < 8; ++i) state_[i] += result[i];
}

#if defined(__x86_64__)

bool Sha256::in_hardware() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  const bool has_sse41 = __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_SSE4_1);
  return has_sse41 && __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) && (ebx & bit_SHA);
}

// The instructions keep the state as two words of four, {a, b, e, f} and {c, d, g, h}, the first letter highest, and do
// two rounds at a time ("Intel SHA Extensions", 2013).
__attribute__((target("sha,sse4.1"))) void Sha256::process_blocks_in_hardware(const unsigned char* blocks,
                                                                              size_t count) {
  const auto load = [](const void* from) { return _mm_loadu_si128(static_cast<const __m128i*>(from)); };
  const auto store = [](void* to, __m128i value) { _mm_storeu_si128(static_cast<__m128i*>(to), value); };
  const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
  const __m128i badc = _mm_shuffle_epi32(load(&state_[0]), 0xB1), efgh = _mm_shuffle_epi32(load(&state_[4]), 0x1B);
  __m128i abef = _mm_alignr_epi8(badc, efgh, 8), cdgh = _mm_blend_epi16(efgh, badc, 0xF0);
  for (; count > 0; --count, blocks += 64) {
    const __m128i abef_before = abef, cdgh_before = cdgh;
    __m128i schedule[4];  // of the 16 words that are needed next
    for (int i = 0; i < 4; ++i) schedule[i] = _mm_shuffle_epi8(load(blocks + 16 * i), big_endian);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      __m128i &words = schedule[i % 4], last = schedule[(i + 3) % 4];
      const __m128i added = _mm_add_epi32(words, load(&kRoundConstants[4 * i]));
      cdgh = _mm_sha256rnds2_epu32(cdgh, abef, added);
      abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(added, 0x0E));
      if (i >= 12) continue;  // the rest of the words is there
      words = _mm_add_epi32(_mm_sha256msg1_epu32(words, schedule[(i + 1) % 4]),
                            _mm_alignr_epi8(last, schedule[(i + 2) % 4], 4));
      words = _mm_sha256msg2_epu32(words, last);
    }
    abef = _mm_add_epi32(abef, abef_before), cdgh = _mm_add_epi32(cdgh, cdgh_before);
  }
  const __m128i feba = _mm_shuffle_epi32(abef, 0x1B), dchg = _mm_shuffle_epi32(cdgh, 0xB1);
  store(&state_[0], _mm_blend_epi16(feba, dchg, 0xF0));
  store(&state_[4], _mm_alignr_epi8(dchg, feba, 8));
}

#else

bool Sha256::in_hardware() { return false; }
void Sha256::process_blocks_in_hardware(const unsigned char*, size_t) {}

#endif

void Sha256::process_blocks(const char* blocks, size_t count) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(blocks);
  if (hardware_) return process_blocks_in_hardware(bytes, count);
  for (size_t i = 0; i < count; ++i) process_block(bytes + i * block_.size());
}

void Sha256::update(std::string_view bytes) {
  length_ += bytes.size();
  if (filled_ > 0) {
    const size_t taken = std::min(bytes.size(), block_.size() - filled_);
    std::memcpy(block_.data() + filled_, bytes.data(), taken);
    filled_ += taken;
    bytes.remove_prefix(taken);
    if (filled_ < block_.size()) return;
    process_blocks(block_.data(), 1);
  }
  process_blocks(bytes.data(), bytes.size() / block_.size());
  filled_ = bytes.size() % block_.size();
  bytes.copy(block_.data(), filled_, bytes.size() - filled_);
}

std::string Sha256::hex_digest() {
  const uint64_t bits = length_ * 8;
  update(std::string_view("\x80", 1));
  while (filled_ != 56) update(std::string_view("\0", 1));
  std::string tail(8, '\0');
  for (int i = 0; i < 8; ++i) tail[i] = static_cast<char>(bits >> (56 - 8 * i));
  update(tail);
  std::string hex;
  for (const uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[word >> shift & 15];
  }
  return hex;
}

std::string sha256_of_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::vector<char> buffer(1 << 20);
  Sha256 hash;
  while (file.read(buffer.data(), static_cast<std::streamsize>(buffer.size())), file.gcount() > 0) {
    hash.update({buffer.data(), static_cast<size_t>(file.gcount())});
  }
  if (!file.eof()) throw FatalError(path + ": cannot be read (" + std::strerror(errno) + ")");
  return hash.hex_digest();
}
