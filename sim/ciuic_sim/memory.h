// The AXI4 memory behind a simulated overlay: latency, bandwidth, stalls, errors, and the rules of
// the bus. Answers come in order, as the overlay uses no IDs. A burst that breaks a rule
// (Arm IHI 0022, A3) stops the simulation with a message.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <vector>

namespace ciuic {

// The channels on which the memory decides when something is transferred.
enum Channel { READ_ADDRESS, READ_BEAT, WRITE_ADDRESS, WRITE_BEAT, ANSWER, CHANNELS };
enum Response : uint8_t { OKAY = 0, SLVERR = 2, DECERR = 3 };
constexpr uint64_t BOUNDARY = 4096;
constexpr unsigned INCR = 1;

struct Settings {
    uint32_t read_latency;   // cycles from an address to its first beat
    uint32_t write_latency;  // cycles from the last beat of a burst to its answer
    uint32_t outstanding;    // bursts that each direction takes ahead
    uint32_t stall;          // of 65536: chance that a channel does nothing in a cycle
    uint32_t late;           // of 65536: chance that a transfer comes a cycle late
    uint32_t bandwidth;      // of 65536: beats in a cycle, each direction
    uint64_t seed;
};

struct Region {
    uint64_t base;
    uint64_t size;
    uint8_t *bytes;
};

struct Range {
    uint64_t start;
    uint64_t stop;
};

class Random {
  public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15u + 0x2545F4914F6CDD1Du) {}
    // True with a chance of `of_65536`.
    bool chance(uint32_t of_65536) {
        if (of_65536 == 0) return false;
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return (state_ >> 40 & 0xFFFF) < of_65536;
    }

  private:
    uint64_t state_;
};

struct Burst {
    uint64_t address;
    uint32_t beats;
    uint64_t due;  // cycle of its first beat, or of its answer
    uint8_t response;
};

// What the overlay drives on an address channel.
struct Address {
    bool valid = false;
    uint64_t address = 0;
    uint32_t len = 0, size = 0, burst = 0;

    bool same(const Address &other) const {
        return valid == other.valid && address == other.address && len == other.len &&
               size == other.size && burst == other.burst;
    }
};

template <unsigned BUS_BYTES>
class Memory {
  public:
    struct WriteBeat {
        bool valid = false;
        bool last = false;
        uint32_t strobes = 0;
        uint8_t data[BUS_BYTES] = {};

        bool same(const WriteBeat &other) const {
            return valid == other.valid && last == other.last && strobes == other.strobes &&
                   std::memcmp(data, other.data, BUS_BYTES) == 0;
        }
    };

    // What the overlay drives in a cycle.
    struct Request {
        Address read, write;
        WriteBeat beat;
        bool read_ready = false, answer_ready = false;
    };

    // What the memory drives in a cycle.
    struct Reply {
        bool read_ready = false, write_ready = false, beat_ready = false;
        bool read_valid = false, read_last = false;
        uint8_t read_response = OKAY;
        uint8_t data[BUS_BYTES] = {};
        bool answer_valid = false;
        uint8_t answer_response = OKAY;
    };

    explicit Memory(const Settings &settings) : settings_(settings), random_(settings.seed) {}

    void map(const Region &region) {
        regions_[region.base] = region;
        recent_read_ = recent_write_ = nullptr;
    }
    void unmap(uint64_t base) {
        regions_.erase(base);
        recent_read_ = recent_write_ = nullptr;
    }
    void refuse(Range range) { refused_.push_back(range); }
    void refuse_nothing() { refused_.clear(); }

    const std::string &violation() const { return violation_; }

    // Take what was transferred in a cycle, and choose what is driven in the next one.
    void step(const Request &request, Reply &reply) {
        ++now_;
        check_stable(request, reply);
        if (request.read.valid && reply.read_ready) take_read(request.read);
        if (request.write.valid && reply.write_ready) take_write(request.write);
        if (request.beat.valid && reply.beat_ready) take_beat(request.beat);
        if (reply.read_valid && request.read_ready) beat_gone(reply);
        if (reply.answer_valid && request.answer_ready) reply.answer_valid = false;
        offer(reply);
    }

  private:
    void fail(const char *rule, uint64_t address) {
        if (!violation_.empty()) return;
        char text[160];
        std::snprintf(text, sizeof text, "%s at address 0x%llx", rule,
                      static_cast<unsigned long long>(address));
        violation_ = text;
    }

    // A3.2.1: what is offered must stay until it is taken.
    void check_stable(const Request &request, const Reply &reply) {
        if (waiting_read_ && !request.read.same(previous_.read))
            fail("AR changed before it was taken", previous_.read.address);
        if (waiting_write_ && !request.write.same(previous_.write))
            fail("AW changed before it was taken", previous_.write.address);
        if (waiting_beat_ && !request.beat.same(previous_.beat))
            fail("W changed before it was taken", previous_.write.address);
        waiting_read_ = request.read.valid && !reply.read_ready;
        waiting_write_ = request.write.valid && !reply.write_ready;
        waiting_beat_ = request.beat.valid && !reply.beat_ready;
        if (waiting_read_ || waiting_write_ || waiting_beat_) previous_ = request;
    }

    void check_burst(const Address &a) {
        const uint64_t nbytes = (a.len + 1ull) * BUS_BYTES;
        if (a.burst != INCR) fail("burst is not incrementing", a.address);
        if (1u << a.size != BUS_BYTES) fail("beats are not as wide as the bus", a.address);
        if (a.address % BUS_BYTES) fail("burst is not aligned to the bus", a.address);
        if (a.address % BOUNDARY + nbytes > BOUNDARY)
            fail("burst crosses a 4 KiB boundary", a.address);
    }

    void take_read(const Address &a) {
        check_burst(a);
        reads_.push_back({a.address, a.len + 1, now_ + settings_.read_latency, OKAY});
    }

    void take_write(const Address &a) {
        check_burst(a);
        writes_.push_back({a.address, a.len + 1, 0, OKAY});
    }

    void take_beat(const WriteBeat &beat) {
        Burst &burst = writes_.front();
        uint8_t *bytes = nullptr;
        const uint8_t response = find(burst.address, bytes, recent_write_);
        write_credit_ -= ONE;
        if (response > burst.response) burst.response = response;
        if (response == OKAY) store(bytes, beat);
        burst.address += BUS_BYTES;
        burst.beats -= 1;
        if (beat.last != (burst.beats == 0)) fail("WLAST is on the wrong beat", burst.address);
        if (burst.beats == 0) {
            answers_.push_back({0, 0, now_ + settings_.write_latency, burst.response});
            writes_.pop_front();
        }
    }

    static void store(uint8_t *bytes, const WriteBeat &beat) {
        constexpr uint32_t ALL = static_cast<uint32_t>((1ull << BUS_BYTES) - 1);
        if (beat.strobes == ALL) {
            std::memcpy(bytes, beat.data, BUS_BYTES);
            return;
        }
        for (unsigned i = 0; i < BUS_BYTES; ++i)
            if (beat.strobes >> i & 1) bytes[i] = beat.data[i];
    }

    void beat_gone(Reply &reply) {
        Burst &burst = reads_.front();
        burst.address += BUS_BYTES;
        if (--burst.beats == 0) reads_.pop_front();
        reply.read_valid = false;
    }

    void offer(Reply &reply) {
        read_credit_ = credit(read_credit_);
        write_credit_ = credit(write_credit_);
        reply.read_ready = reads_.size() < settings_.outstanding && !stalled(READ_ADDRESS);
        reply.write_ready = writes_.size() < settings_.outstanding && !stalled(WRITE_ADDRESS);
        reply.beat_ready = !writes_.empty() && write_credit_ >= ONE && !stalled(WRITE_BEAT);
        if (!reply.read_valid && !reads_.empty() && reads_.front().due <= now_ &&
            read_credit_ >= ONE && !stalled(READ_BEAT)) {
            read_credit_ -= ONE;
            offer_beat(reply);
        }
        if (!reply.answer_valid && !answers_.empty() && answers_.front().due <= now_ &&
            !stalled(ANSWER)) {
            reply.answer_valid = true;
            reply.answer_response = answers_.front().response;
            answers_.pop_front();
        }
    }

    void offer_beat(Reply &reply) {
        const Burst &burst = reads_.front();
        uint8_t *bytes = nullptr;
        reply.read_valid = true;
        reply.read_last = burst.beats == 1;
        reply.read_response = find(burst.address, bytes, recent_read_);
        if (reply.read_response == OKAY)
            std::memcpy(reply.data, bytes, BUS_BYTES);
        else
            std::memset(reply.data, 0xEE, BUS_BYTES);  // nobody may use them
    }

    uint8_t find(uint64_t address, uint8_t *&bytes, const Region *&recent) const {
        for (const Range &range : refused_)
            if (address >= range.start && address < range.stop) return SLVERR;
        if (!recent || address - recent->base >= recent->size) {
            auto next = regions_.upper_bound(address);
            if (next == regions_.begin()) return DECERR;
            const Region &region = std::prev(next)->second;
            if (address - region.base >= region.size) return DECERR;
            recent = &region;
        }
        bytes = recent->bytes + (address - recent->base);
        return OKAY;
    }

    bool stalled(Channel channel) {
        late_[channel] = !late_[channel] && random_.chance(settings_.late);
        return late_[channel] || random_.chance(settings_.stall);
    }

    uint32_t credit(uint32_t held) const {
        const uint32_t sum = held + settings_.bandwidth;
        return sum < 2 * ONE ? sum : 2 * ONE;
    }


    static constexpr uint32_t ONE = 65536;

    Settings settings_;
    Random random_;
    std::map<uint64_t, Region> regions_;
    const Region *recent_read_ = nullptr, *recent_write_ = nullptr;
    std::vector<Range> refused_;
    std::deque<Burst> reads_, writes_, answers_;
    Request previous_;
    bool late_[CHANNELS] = {};
    bool waiting_read_ = false, waiting_write_ = false, waiting_beat_ = false;
    uint64_t now_ = 0;
    uint32_t read_credit_ = 0, write_credit_ = 0;
    std::string violation_;
};

}  // namespace ciuic
