// Test vectors: cases from `python -m ciuic_hw.hls_vectors`, one after the other. A case is
// the kernel's numbers (uint32), then blocks of memory, each its size in bytes (uint32) and its
// bytes: the inputs, the output as it was, the output as it must become. Little-endian.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../types.hpp"

namespace ciuic {

using Bytes = std::vector<uint8_t>;

class Vectors {
  public:
    explicit Vectors(const std::string &path) : file(path, std::ios::binary) {
        if (!file)
            throw std::runtime_error("cannot read " + path);
    }

    bool more() { return file.peek() != std::ifstream::traits_type::eof(); }

    uint32_t number() {
        Bytes data = read(4);
        return data[0] | data[1] << 8 | data[2] << 16 | uint32_t(data[3]) << 24;
    }

    Bytes block() { return read(number()); }

  private:
    std::ifstream file;

    Bytes read(size_t nbytes) {
        Bytes data(nbytes);
        if (!file.read(reinterpret_cast<char *>(data.data()), std::streamsize(nbytes)))
            throw std::runtime_error("vectors end in the middle of a case");
        return data;
    }
};

// Memory as a kernel sees it: words of BITS bits.
template <typename Word, int BITS>
class Memory {
  public:
    explicit Memory(const Bytes &bytes) : nbytes(bytes.size()), words(bytes.size() * 8 / BITS) {
        if (nbytes * 8 % BITS)
            throw std::runtime_error("a block of memory must be whole words");
        for (size_t at = 0; at < nbytes; at++) {
            const int low = int(at * 8 % BITS);
            words[at * 8 / BITS].range(low + 7, low) = bytes[at];
        }
#ifdef CIUIC_COSIM  // the tool copies as much as the interface says
        words.resize(COSIM_DEPTH);
#endif
    }

    Word *data() { return words.data(); }

    Bytes bytes() const {
        Bytes out(nbytes);
        for (size_t at = 0; at < nbytes; at++) {
            const int low = int(at * 8 % BITS);
            out[at] = uint8_t(words[at * 8 / BITS].range(low + 7, low).to_uint());
        }
        return out;
    }

  private:
    size_t nbytes;
    std::vector<Word> words;
};

using BeatMemory = Memory<Beat, 8 * BUS_BYTES>;

// Run every case of a file; return the exit status of a test bench.
template <typename Case>
int run(int argc, char **argv, Case run_case) try {
    if (argc != 2)
        throw std::runtime_error("usage: testbench VECTORS");
    Vectors vectors(argv[1]);
    size_t cases = 0, compared = 0, different = 0;
    for (; vectors.more(); cases++) {
        const Bytes got = run_case(vectors);
        const Bytes wanted = vectors.block();
        if (got.size() != wanted.size())
            throw std::runtime_error("outputs before and after must have one size");
        for (size_t at = 0; at < wanted.size(); at++)
            if (got[at] != wanted[at] && different++ == 0)
                std::printf("case %zu, byte %zu: %u instead of %u\n", cases, at, got[at],
                            wanted[at]);
        compared += wanted.size();
    }
    std::printf("%zu cases, %zu bytes compared, %zu differ\n", cases, compared, different);
    return cases == 0 || different > 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
}

}  // namespace ciuic
