# KV260: vivado -mode batch -source hw/boards/kv260/build.tcl
set board kv260

proc set_up_project {} {
    # The board's files say how large its memory is, without which there is no segment above 2 GiB.
    set board_part [get_board_parts *:kv260_som:* -latest_file_version]
    if {$board_part eq ""} {
        error "the board files of the KV260 are not installed: Tools > Vivado Store > Boards"
    }
    set_property board_part $board_part [current_project]
}

proc set_up_processing_system {ps} {
    apply_bd_automation -rule xilinx.com:bd_rule:zynq_ultra_ps_e \
        -config {apply_board_preset 1} [get_bd_cells $ps]
}

source [file dirname [file normalize [info script]]]/../common/build.tcl
