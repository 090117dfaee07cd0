# C simulation, synthesis, co-simulation and export of one kernel by Vitis HLS, in the environment
# where ciuic is installed:
#
#   vitis_hls -f hw/hls/build.tcl -tclargs KERNEL CONFIG PART
#
# KERNEL is gemm_tile or softmax, CONFIG a name in ciuic.abi.CONFIGS, PART a part number. Writes to
# build/hls/KERNEL-CONFIG below the current folder; the IP lands in its solution/impl/ip.

if {[llength $argv] < 3} {
    error "usage: vitis_hls -f build.tcl -tclargs KERNEL CONFIG PART"
}
lassign [lrange $argv end-2 end] kernel config part

set sources [file dirname [file normalize [info script]]]
set build [file normalize build/hls/$kernel-$config]
set vectors $build/vectors.bin
file mkdir $build

# Co-simulation takes minutes a case in the vendor's simulator, so there are few.
exec python3 -m ciuic_hw.hls_header --config $config -o $build/constants.hpp
exec python3 -m ciuic_hw.hls_vectors $kernel --config $config --cases 8 -o $vectors
set period_ns [exec python3 -c \
    "from ciuic.abi import CONFIGS; print(1e9 / CONFIGS\['$config'\].clock_hz)"]

set flags "-std=c++14 -I$build"
cd $build
open_project -reset project
set_top $kernel
add_files $sources/$kernel.cpp -cflags $flags
add_files -tb $sources/testbench/$kernel.cpp -cflags "$flags -DCIUIC_COSIM"
open_solution -reset solution
set_part $part
create_clock -period $period_ns

csim_design -argv $vectors
csynth_design
cosim_design -argv $vectors
export_design -format ip_catalog
exit
