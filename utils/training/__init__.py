"""One epoch, the schedule, the average, resume. Knows no task: loss, penalty and metric are handed in."""
