-- Message ids are time-ordered: with them first, new events meet on the newest page instead of one page a device.
drop index events_by_message;
create unique index events_by_message on events (message_id, device_id);
