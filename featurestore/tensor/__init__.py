"""What a tensor is: spec, mel filters, moments, reasons of rejection. Pure arithmetic; everybody may import it."""
