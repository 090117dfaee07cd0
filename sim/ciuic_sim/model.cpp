// One simulated overlay with its memory, as a C library: see the end of the file for its calls.
// PORTS is the number of its memory ports; behind each is a memory of its own pace, all with the
// same bytes.
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

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

template <typename T>
using Plain = std::remove_reference_t<T>;

// The wires of one memory port.
struct Wires {
    CData *arvalid, *arready, *arlen, *arsize, *arburst;
    CData *awvalid, *awready, *awlen, *awsize, *awburst;
    CData *rvalid, *rready, *rlast, *rresp;
    CData *wvalid, *wready, *wlast;
    CData *bvalid, *bready, *bresp;
    Plain<decltype(Vtop::MEMORY(araddr))> *araddr, *awaddr;
    Plain<decltype(Vtop::MEMORY(wstrb))> *wstrb;
    Data *rdata, *wdata;
};
#define WIRES(W)                                                                    \
    Wires {                                                                         \
        &W(arvalid), &W(arready), &W(arlen), &W(arsize), &W(arburst), &W(awvalid),  \
            &W(awready), &W(awlen), &W(awsize), &W(awburst), &W(rvalid), &W(rready), \
            &W(rlast), &W(rresp), &W(wvalid), &W(wready), &W(wlast), &W(bvalid),    \
            &W(bready), &W(bresp), &W(araddr), &W(awaddr), &W(wstrb), &W(rdata), &W(wdata) \
    }
#define PORT_0(name) top_.MEMORY(name)
#define PORT_1(name) top_.memory_1___05F##name
#define PORT_2(name) top_.memory_2___05F##name
#define PORT_3(name) top_.memory_3___05F##name

// A memory port with the memory behind it.
class Port {
  public:
    Port(const Settings &settings, const Wires &wires) : memory(settings), wires_(wires) {}

    // See what is transferred in this cycle.
    void step() {
        sample();
        memory.step(request_, reply_);
    }

    // Drive what the memory chose for the next one.
    void drive() {
        *wires_.arready = reply_.read_ready;
        *wires_.awready = reply_.write_ready;
        *wires_.wready = reply_.beat_ready;
        *wires_.rvalid = reply_.read_valid;
        if (reply_.read_valid) {
            *wires_.rlast = reply_.read_last;
            *wires_.rresp = reply_.read_response;
            std::memcpy(wires_.rdata, reply_.data, BUS_BYTES);
        }
        *wires_.bvalid = reply_.answer_valid;
        *wires_.bresp = reply_.answer_response;
    }

    Memory<BUS_BYTES> memory;

  private:
    void sample() {
        request_.read.valid = *wires_.arvalid;
        if (request_.read.valid) {
            request_.read.address = *wires_.araddr;
            request_.read.len = *wires_.arlen;
            request_.read.size = *wires_.arsize;
            request_.read.burst = *wires_.arburst;
        }
        request_.write.valid = *wires_.awvalid;
        if (request_.write.valid) {
            request_.write.address = *wires_.awaddr;
            request_.write.len = *wires_.awlen;
            request_.write.size = *wires_.awsize;
            request_.write.burst = *wires_.awburst;
        }
        request_.beat.valid = *wires_.wvalid;
        if (request_.beat.valid) {
            request_.beat.last = *wires_.wlast;
            request_.beat.strobes = *wires_.wstrb;
            std::memcpy(request_.beat.data, wires_.wdata, BUS_BYTES);
        }
        request_.read_ready = *wires_.rready;
        request_.answer_ready = *wires_.bready;
    }

    Wires wires_;
    Memory<BUS_BYTES>::Request request_;
    Memory<BUS_BYTES>::Reply reply_;
};

class Simulation {
  public:
    explicit Simulation(const Settings &settings) : top_(&context_) {
        add_port(settings, WIRES(PORT_0));
#if PORTS >= 2
        add_port(settings, WIRES(PORT_1));
#endif
#if PORTS == 4
        add_port(settings, WIRES(PORT_2));
        add_port(settings, WIRES(PORT_3));
#endif
        idle_control();
        top_.rst = 1;
        for (int i = 0; i < RESET_CYCLES; ++i) tick<false>();
        top_.rst = 0;
    }
    ~Simulation() { top_.final(); }

    // Run until the interrupt line is high, at most a number of cycles; return the cycles run.
    uint64_t run(uint64_t cycles) {
        uint64_t done = 0;
        while (done < cycles && !top_.INTERRUPT && violation().empty()) {
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

    const std::string &violation() const {
        for (const Port &port : ports)
            if (!port.memory.violation().empty()) return port.memory.violation();
        return ports.front().memory.violation();
    }

    std::vector<Port> ports;
    uint64_t cycles = 0;

  private:
    void add_port(Settings settings, const Wires &wires) {
        settings.seed += ports.size();  // each has its own stalls
        ports.emplace_back(settings, wires);
    }

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
            for (Port &port : ports) port.step();
        }
        top_.clk = 1;
        top_.eval();
        if (WITH_MEMORY)
            for (Port &port : ports) port.drive();
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

    VerilatedContext context_;
    Vtop top_;
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
const char *sim_violation(Simulation *sim) { return sim->violation().c_str(); }

void sim_map(Simulation *sim, uint64_t base, uint64_t size, uint8_t *bytes) {
    for (auto &port : sim->ports) port.memory.map({base, size, bytes});
}
void sim_unmap(Simulation *sim, uint64_t base) {
    for (auto &port : sim->ports) port.memory.unmap(base);
}

// Answer accesses to [start, stop) with an error, as long as the range is not empty.
void sim_refuse(Simulation *sim, uint64_t start, uint64_t stop) {
    for (auto &port : sim->ports) {
        port.memory.refuse_nothing();
        if (start < stop) port.memory.refuse({start, stop});
    }
}
}
