# Gateware -> IP -> block design -> bitstream, for the board whose build.tcl sources this. That one
# sets `board` and defines `set_up_project` and `set_up_processing_system`.

set common [file dirname [file normalize [info script]]]
set root [file normalize $common/../../..]
source $common/package.tcl
source $common/design.tcl

proc run_to_end {run args} {
    launch_runs $run -jobs 4 {*}$args
    wait_on_run $run
    if {[get_property PROGRESS [get_runs $run]] ne "100%"} {
        error "$run ended with status [get_property STATUS [get_runs $run]]"
    }
}

proc check_timing_met {run} {
    foreach {what name} {setup WNS hold WHS "pulse width" TPWS} {
        set slack [get_property STATS.$name [get_runs $run]]
        if {![string is double -strict $slack] || $slack < 0} {
            error "timing is not met: $what slack is $slack ns (see timing.txt)"
        }
    }
}

proc build {board root} {
    set work $root/build/vivado/$board
    file mkdir $work
    # Vivado has a Python of its own, and sets variables for it that mislead any other.
    set python [expr {[file executable $root/.venv/bin/python] ? "$root/.venv/bin/python" : "python3"}]
    exec env -u PYTHONHOME -u PYTHONPATH -u LD_LIBRARY_PATH \
        $python -m ciuic_hw.build.vivado --board $board -o $work
    source $work/constants.tcl
    if {![string match $release* [version -short]]} {
        puts "WARNING: written for Vivado $release, this is [version -short]"
    }

    package_overlay $work
    create_project -force ciuic $work/project -part $part
    set_up_project
    set_property ip_repo_paths $work/ip [current_project]
    update_ip_catalog
    create_design $work

    set design [get_files ciuic.bd]
    generate_target all $design
    add_files -norecurse [make_wrapper -files $design -top]
    set_property top ciuic_wrapper [current_fileset]
    update_compile_order -fileset sources_1
    run_to_end synth_1
    run_to_end impl_1 -to_step write_bitstream

    open_run impl_1
    report_timing_summary -file $work/timing.txt
    report_utilization -hierarchical -file $work/utilization.txt
    check_timing_met impl_1
    write_hw_platform -fixed -include_bit -force -file $work/ciuic.xsa
    set project $work/project
    file copy -force $project/ciuic.runs/impl_1/ciuic_wrapper.bit $work/ciuic.bit
    file copy -force $project/ciuic.gen/sources_1/bd/ciuic/hw_handoff/ciuic.hwh $work/ciuic.hwh
    puts "wrote ciuic.bit, ciuic.hwh, ciuic.xsa, timing.txt, utilization.txt to $work"
}

build $board $root
