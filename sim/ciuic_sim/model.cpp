// One simulated overlay with its memory, as a C library: see the end of the file for its calls.
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "Vtop.h"
#include "memory.h"
#include "verilated.h"

// Verilator writes a double underscore in a name as its code, and marks names that look like
// keywords of C++ dialects.
#define INTERRUPT __SYM__interrupt
#define CONTROL(name) control___05F##name
#define MEMORY(name) memory___05F##name

double sc_time_stamp() { return 0; }  // the gateware does not ask for the time

namespace ciuic {

using Data = std::remove_reference_t<decltype(Vtop::MEMORY(rdata))>;
constexpr unsigned BUS_BYTES = sizeof(Data);
constexpr int RESET_CYCLES = 4;
constexpr int ACCESS_CYCLES = 1000;  // a register answers at once; this one is broken

class Simulation {
  public:
    explicit Simulation(const Settings &settings) : memory(settings), top_(&context_) {
        idle_control();
        top_.rst = 1;
        for (int i = 0; i < RESET_CYCLES; ++i) tick<false>();
        top_.rst = 0;
    }
    ~Simulation() { top_.final(); }

    // Run until the interrupt line is high, at most a number of cycles; return the cycles run.
    uint64_t run(uint64_t cycles) {
        uint64_t done = 0;
        while (done < cycles && !top_.INTERRUPT && memory.violation().empty()) {
            tick<true>();
            ++done;
        }
        return done;
    }

    bool interrupt() const { return top_.INTERRUPT; }

    bool write_register(uint32_t offset, uint32_t value) {
        top_.CONTROL(awaddr) = offset;
        top_.CONTROL(awvalid) = 1;
        top_.CONTROL(wdata) = value;
        top_.CONTROL(wstrb) = 0xF;
        top_.CONTROL(wvalid) = 1;
        top_.CONTROL(bready) = 1;
        for (int i = 0; i < ACCESS_CYCLES; ++i) {
            const Control seen = tick<true>();
            if (seen.write_taken) top_.CONTROL(awvalid) = 0;
            if (seen.beat_taken) top_.CONTROL(wvalid) = 0;
            if (seen.answered) {
                idle_control();
                return true;
            }
        }
        idle_control();
        return false;
    }

    bool read_register(uint32_t offset, uint32_t &value) {
        top_.CONTROL(araddr) = offset;
        top_.CONTROL(arvalid) = 1;
        top_.CONTROL(rready) = 1;
        for (int i = 0; i < ACCESS_CYCLES; ++i) {
            const Control seen = tick<true>();
            if (seen.read_taken) top_.CONTROL(arvalid) = 0;
            if (seen.read) {
                value = seen.value;
                idle_control();
                return true;
            }
        }
        idle_control();
        return false;
    }

    Memory<BUS_BYTES> memory;
    uint64_t cycles = 0;

  private:
    struct Control {
        bool write_taken, beat_taken, answered, read_taken, read;
        uint32_t value;
    };

    // One clock cycle: let the inputs settle, see what is transferred, clock, choose new inputs.
    template <bool WITH_MEMORY>
    Control tick() {
        top_.clk = 0;
        top_.eval();
        const Control seen = control();
        if (WITH_MEMORY) {
            sample();
            memory.step(request_, reply_);
        }
        top_.clk = 1;
        top_.eval();
        if (WITH_MEMORY) drive();
        ++cycles;
        return seen;
    }

    Control control() const {
        return {top_.CONTROL(awvalid) && top_.CONTROL(awready),
                top_.CONTROL(wvalid) && top_.CONTROL(wready),
                top_.CONTROL(bvalid) && top_.CONTROL(bready),
                top_.CONTROL(arvalid) && top_.CONTROL(arready),
                top_.CONTROL(rvalid) && top_.CONTROL(rready),
                top_.CONTROL(rdata)};
    }

    void idle_control() {
        top_.CONTROL(awvalid) = 0;
        top_.CONTROL(wvalid) = 0;
        top_.CONTROL(bready) = 0;
        top_.CONTROL(arvalid) = 0;
        top_.CONTROL(rready) = 0;
    }

    void sample() {
        request_.read.valid = top_.MEMORY(arvalid);
        if (request_.read.valid) {
            request_.read.address = top_.MEMORY(araddr);
            request_.read.len = top_.MEMORY(arlen);
            request_.read.size = top_.MEMORY(arsize);
            request_.read.burst = top_.MEMORY(arburst);
        }
        request_.write.valid = top_.MEMORY(awvalid);
        if (request_.write.valid) {
            request_.write.address = top_.MEMORY(awaddr);
            request_.write.len = top_.MEMORY(awlen);
            request_.write.size = top_.MEMORY(awsize);
            request_.write.burst = top_.MEMORY(awburst);
        }
        request_.beat.valid = top_.MEMORY(wvalid);
        if (request_.beat.valid) {
            request_.beat.last = top_.MEMORY(wlast);
            request_.beat.strobes = top_.MEMORY(wstrb);
            std::memcpy(request_.beat.data, &top_.MEMORY(wdata), BUS_BYTES);
        }
        request_.read_ready = top_.MEMORY(rready);
        request_.answer_ready = top_.MEMORY(bready);
    }

    void drive() {
        top_.MEMORY(arready) = reply_.read_ready;
        top_.MEMORY(awready) = reply_.write_ready;
        top_.MEMORY(wready) = reply_.beat_ready;
        top_.MEMORY(rvalid) = reply_.read_valid;
        if (reply_.read_valid) {
            top_.MEMORY(rlast) = reply_.read_last;
            top_.MEMORY(rresp) = reply_.read_response;
            std::memcpy(&top_.MEMORY(rdata), reply_.data, BUS_BYTES);
        }
        top_.MEMORY(bvalid) = reply_.answer_valid;
        top_.MEMORY(bresp) = reply_.answer_response;
    }

    VerilatedContext context_;
    Vtop top_;
    Memory<BUS_BYTES>::Request request_;
    Memory<BUS_BYTES>::Reply reply_;
};

}  // namespace ciuic

using ciuic::Simulation;

extern "C" {

Simulation *sim_open(const ciuic::Settings *settings) { return new Simulation(*settings); }
void sim_close(Simulation *sim) { delete sim; }

// Register accesses return whether the overlay answered.
int sim_read(Simulation *sim, uint32_t offset, uint32_t *value) {
    return sim->read_register(offset, *value);
}
int sim_write(Simulation *sim, uint32_t offset, uint32_t value) {
    return sim->write_register(offset, value);
}

uint64_t sim_run(Simulation *sim, uint64_t cycles) { return sim->run(cycles); }
int sim_interrupt(Simulation *sim) { return sim->interrupt(); }
uint64_t sim_cycles(Simulation *sim) { return sim->cycles; }
const char *sim_violation(Simulation *sim) { return sim->memory.violation().c_str(); }

void sim_map(Simulation *sim, uint64_t base, uint64_t size, uint8_t *bytes) {
    sim->memory.map({base, size, bytes});
}
void sim_unmap(Simulation *sim, uint64_t base) { sim->memory.unmap(base); }

// Answer accesses to [start, stop) with an error, as long as the range is not empty.
void sim_refuse(Simulation *sim, uint64_t start, uint64_t stop) {
    sim->memory.refuse_nothing();
    if (start < stop) sim->memory.refuse({start, stop});
}
}
