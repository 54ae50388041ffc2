"""What a trained generator and a run become for others: portable generators and reports."""
