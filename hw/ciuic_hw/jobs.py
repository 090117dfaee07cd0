"""What engines whose units follow the same jobs have in common: handing jobs out, ending them."""

from amaranth.hdl import *

from ciuic.abi import Status

from .streams import delay

__all__ = ["hand_out", "outcome", "status_of", "when_ready"]


def hand_out(m, ports, job, start):
    """Offer a job to the unit behind each of some ports; return whether all have taken it.

    Parameters
    ----------
    ports
        Streams of jobs, see `when_ready`: a unit that sees ``valid`` takes the job. A job that is
        refused goes to the last unit alone, which reports it.
    job
        The job; must not change until the cycle behind that in which all have it.
    start : Signal(1)
        Strobe: offer it from the next cycle on.
    """
    pending = Signal(len(ports))
    for index, port in enumerate(ports):
        m.d.comb += [port.p.eq(job), port.valid.eq(when_ready(m, pending[index], port))]
        with m.If(port.valid):
            m.d.sync += pending[index].eq(0)
    with m.If(start):
        reporter, everyone = 1 << len(ports) - 1, (1 << len(ports)) - 1
        m.d.sync += pending.eq(Mux(job.refused == Status.PENDING, everyone, reporter))
    return ~pending.any()


def when_ready(m, offered, port):
    """Return whether something is offered to a port that was ready in the cycle before.

    A port that is far away, and once ready stays so until it takes something, takes it then: it is
    known here in the same cycle, without the way from its ``ready``. Behind that the port is not
    ready for a cycle at least, in which nothing may be offered.
    """
    return offered & delay(m, port.ready, 1)


def outcome(m, refused, *, read_error, write_error, ends):
    """Return how the last job ended, as a `Status`, from the cycle behind ``ends`` on.

    It stays until the next job ends, so that who takes the report may do so late.

    Parameters
    ----------
    refused : Signal(8)
        Why it is not taken, or `Status.PENDING`.
    read_error, write_error : Signal(1)
        Strobes: the memory refused a transfer of it, or a read of the job that is loaded ahead.
    ends : Signal(1)
        Strobe: the job is over. An error in this very cycle counts for the next job.
    """
    failed_read, failed_write = Signal(), Signal()
    status = Signal(8, reset_less=True)
    m.d.sync += [
        failed_read.eq(read_error | (failed_read & ~ends)),
        failed_write.eq(write_error | (failed_write & ~ends)),
    ]
    reason = Mux(refused == Status.PENDING, Status.OK, refused)
    with m.If(ends):
        m.d.sync += status.eq(status_of(m, reason, failed_read, failed_write))
    return status


def status_of(m, refused, failed_read, failed_write):
    """Return the `Status` of a job: why it is refused, `Status.OK` if it is not, comes first."""
    status = Signal(8)
    with m.If(refused != Status.OK):
        m.d.comb += status.eq(refused)
    with m.Elif(failed_read):
        m.d.comb += status.eq(Status.READ_ERROR)
    with m.Elif(failed_write):
        m.d.comb += status.eq(Status.WRITE_ERROR)
    with m.Else():
        m.d.comb += status.eq(Status.OK)
    return status
