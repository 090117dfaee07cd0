# The block design: processing system, overlay, interrupt controller, and what joins them.

proc pins {args} {
    return [lmap pin $args {get_bd_pins $pin}]
}

proc join_pins {args} {
    connect_bd_net {*}[pins {*}$args]
}

proc join_interfaces {from to} {
    connect_bd_intf_net [get_bd_intf_pins $from] [get_bd_intf_pins $to]
}

proc create_design {work} {
    source $work/constants.tcl
    create_bd_design ciuic

    create_bd_cell -type ip -vlnv $ps_vlnv $ps
    set_up_processing_system $ps
    set_property -dict $ps_config [get_bd_cells $ps]
    create_bd_cell -type ip -vlnv $vlnv $instance
    create_bd_cell -type ip -vlnv xilinx.com:ip:proc_sys_reset:5.0 $reset
    create_bd_cell -type ip -vlnv xilinx.com:ip:smartconnect:1.0 $interconnect
    set_property -dict {CONFIG.NUM_SI 1 CONFIG.NUM_MI 2} [get_bd_cells $interconnect]
    create_bd_cell -type ip -vlnv xilinx.com:ip:axi_intc:4.1 $controller
    # Level out: PYNQ waits on an interrupt of the processors that is level-sensitive.
    set_property -dict {CONFIG.C_IRQ_CONNECTION 1} [get_bd_cells $controller]

    set clocked [list $ps/$ps_control_clock $instance/clk $reset/slowest_sync_clk \
        $interconnect/aclk $controller/s_axi_aclk]
    foreach port $memory_ports {
        lappend clocked $ps/[dict get $port clock]
    }
    join_pins $ps/$ps_clock {*}$clocked
    join_pins $ps/$ps_reset $reset/ext_reset_in
    join_pins $reset/peripheral_reset $instance/rst
    join_pins $reset/interconnect_aresetn $interconnect/aresetn
    join_pins $reset/peripheral_aresetn $controller/s_axi_aresetn
    join_pins $instance/interrupt $controller/intr
    join_pins $controller/irq $ps/$ps_interrupt

    join_interfaces $ps/$ps_control $interconnect/S00_AXI
    join_interfaces $interconnect/M00_AXI $instance/control
    join_interfaces $interconnect/M01_AXI $controller/s_axi
    foreach port $memory_ports {
        join_interfaces $instance/[dict get $port overlay] $ps/[dict get $port interface]
    }

    place $ps/Data $instance/control/Reg $control
    place $ps/Data $controller/S_AXI/Reg $interrupt_controller
    foreach port $memory_ports {
        set space $instance/[dict get $port overlay]
        foreach segment [dict get $port segments] {
            place $space $ps/[lindex $segment 0] [lrange $segment 1 2]
        }
        foreach segment [dict get $port unused] {
            exclude_bd_addr_seg -target_address_space [get_bd_addr_spaces $space] \
                [get_bd_addr_segs $ps/$segment]
        }
    }
    validate_bd_design
    save_bd_design
}

proc place {space segment region} {
    lassign $region base span
    assign_bd_address -offset $base -range $span \
        -target_address_space [get_bd_addr_spaces $space] [get_bd_addr_segs $segment] -force
}
