-- How many events of a site arrived in each hour, how many of somebody known, and of what names: counted by whoever looks,
-- not by those who write them.

create table event_hours (
    site_id    bigint not null,
    hour       bigint not null,
    events     bigint not null,
    known      bigint not null,
    counted_at bigint not null,
    primary key (site_id, hour)
);

create table event_hour_names (
    site_id bigint not null,
    hour    bigint not null,
    name    text not null,
    events  bigint not null,
    primary key (site_id, hour, name)
);
