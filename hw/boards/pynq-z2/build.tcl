# PYNQ-Z2: vivado -mode batch -source hw/boards/pynq-z2/build.tcl
set board pynq-z2

proc set_up_project {} {}

proc set_up_processing_system {ps} {
    # Pins and memory are set up by the board's boot image; only the ports must be there.
    foreach {name type} {DDR interface:ddrx FIXED_IO display_processing_system7:fixedio} {
        create_bd_intf_port -mode Master -vlnv xilinx.com:${type}_rtl:1.0 $name
        connect_bd_intf_net [get_bd_intf_pins $ps/$name] [get_bd_intf_ports $name]
    }
}

source [file dirname [file normalize [info script]]]/../common/build.tcl
